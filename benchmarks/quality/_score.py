"""Run methods on the data sets of a task and score their results."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict

import pandas as pd
from _inputs import for_methods
from _protocol import METHODS, PROTOCOL, methods_of
from _representations import Representations
from _tasks import SCORES


def measure(arguments: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield one table of scores for each data set, method and seed."""
    methods = arguments.methods or methods_of(arguments.task)
    representations = Representations(
        arguments.out / "cache", arguments.environments.absolute(), set(methods) if arguments.fresh else set()
    )
    for dataset, pattern in PROTOCOL[arguments.task]["datasets"].items():
        if arguments.datasets and dataset not in arguments.datasets:
            continue
        # Tasks on the same sections share cached results.
        key = pattern.replace("*", "").replace("[", "").replace("]", "")
        adata, given = for_methods([pattern])
        for method in methods:
            seeds = arguments.seeds if METHODS[method].get("random") else [0]
            for seed in seeds:
                result, run = representations.get(key, given, method, seed)
                account = {**asdict(run), "dataset": dataset}
                labels_only = result is not None and result.ndim == 1 and arguments.task != "domains"
                if labels_only:
                    account["note"] = "gives domains and no representation"
                if result is None or labels_only:
                    yield pd.DataFrame([account])
                    continue
                scores = SCORES[arguments.task](adata.copy(), result, arguments.environments.absolute())
                yield pd.DataFrame([{**account, **settings, "metric": m, "value": v} for settings, m, v in scores])
