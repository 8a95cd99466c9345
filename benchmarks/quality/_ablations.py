"""Train and score variants of the default model, each with one change, on the development sections."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _inputs import annotation, joined
from _predictions import masked_recovery
from _protocol import PROTOCOL
from sklearn.metrics import adjusted_rand_score

import sagefm

TASK = PROTOCOL["ablations"]


def measure(arguments: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield one table of scores for each data set, variant and seed."""
    for name, split in TASK["splits"].items():
        if arguments.datasets and name not in arguments.datasets:
            continue
        train, test = joined(split["train"]), joined(split["test"])
        for variant, changes in TASK["variants"].items():
            if arguments.methods and variant not in arguments.methods:
                continue
            for seed in TASK["seeds"]:
                account = {"dataset": name, "method": variant, "seed": seed, "label": changes["label"]}
                scores = scored(changes, train, test, seed)
                yield pd.DataFrame([{**account, "metric": metric, "value": value} for metric, value in scores.items()])


def scored(changes: dict[str, Any], train: ad.AnnData, test: ad.AnnData, seed: int) -> dict[str, float]:
    """Train one variant; return its scores and its training cost."""
    scvi.settings.seed = seed
    model = changed_model(changes, train)
    busy = time.process_time()
    model.train(accelerator="cpu", enable_progress_bar=False, **changes.get("train", {}))
    cost = {
        "cpu_seconds": time.process_time() - busy,
        "epochs": len(model.history["train_loss"]),
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
    }
    fitted = {f"fitted_{key}": value for key, value in masked_recovery(model, train, test, n_masks=1).items()}
    alone = masked_recovery(model, train, test, n_masks=1, fit_section=False)
    return cost | alone | fitted | domain_scores(model, test)


def changed_model(changes: dict[str, Any], train: ad.AnnData) -> sagefm.SAGEFM:
    """Return an untrained variant: other arguments of the model, or other settings of its network."""
    model = sagefm.SAGEFM(train, **changes.get("model", {}))
    for owner, name in ((model.module, "module"), (model.module.normalization, "normalization")):
        for setting, value in changes.get(name, {}).items():
            if not hasattr(owner, setting):
                raise AttributeError(f"The {name} has no setting {setting!r} that protocol.toml could change.")
            setattr(owner, setting, value)
    # Not fitted, the network is scored alone: its variants differ less with the neighbours' contribution.
    settings = {"skip_share": 0.0, **changes.get("section_fit", {})}
    model.module.section_fit = model.module.section_fit._replace(**settings)
    if changes.get("random_start"):
        model.module.init_from_pca = lambda components, deviation: None
    return model


def domain_scores(model: sagefm.SAGEFM, test: ad.AnnData) -> dict[str, float]:
    """Return the mean ARI of domains with the annotation; empty without an annotation or for several sections."""
    truth = annotation(test) if "annotation" in test.obs else pd.Series(dtype=object)
    if truth.nunique() < 2 or test.obs["sample"].nunique() > 1:
        return {}
    model.get_latent_representation(test)
    known, found = truth.notna().to_numpy(), []
    for seed in PROTOCOL["domains"]["cluster_seeds"]["gmm"]:
        sagefm.tl.domains(test, truth.nunique(), smooth=1, seed=seed)
        found.append(adjusted_rand_score(truth[known], test.obs["domain"][known]))
    return {"ARI": float(np.mean(found))}
