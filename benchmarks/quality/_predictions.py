"""Recovery of masked and of missing genes on held-out sections, by models and by baselines."""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _inputs import joined
from _linear import LinearModel, SectionModel
from _protocol import METHODS, MODELS, PROTOCOL, methods_of

import sagefm
from sagefm.model import fisher_average

MAX_EPOCHS = 1000  # of the published network; its early stopping ends it before
ALONE = "_alone"  # suffix: without the fit to the sections


def measure(arguments: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield one table of scores for each split, method and seed."""
    wanted = arguments.methods or methods_of(arguments.task)
    score = {"recovery": masked_recovery, "missing_genes": missing_genes}[arguments.task]
    for name, split in PROTOCOL["recovery"]["splits"].items():
        if arguments.datasets and name not in arguments.datasets:
            continue
        train, test = joined(split["train"] + split["validate"]), joined(split["test"])
        validate = joined(split["validate"]).obs["sample"].unique() if split["validate"] else []
        folder = arguments.out / "cache" / "models" / name
        if "regression" in wanted:
            linear = LinearModel(train[~train.obs["sample"].isin(validate)].copy())
            yield rows(name, "regression", 0, {"seconds": linear.seconds}, score(linear, train, test))
        if "section_regression" in wanted and arguments.task == "recovery":  # a section has no data on missing genes
            yield rows(name, "section_regression", 0, {}, score(SectionModel(train.var_names), train, test))
        for method in [method for method in MODELS if method in wanted]:
            for seed in arguments.seeds if METHODS[method].get("random") else [0]:
                try:
                    model, cost = trained(method, train, validate, seed, folder, arguments.fresh)
                    scores = score(model, train, test)
                except (FileNotFoundError, KeyError, ValueError) as error:
                    yield pd.DataFrame([{"dataset": name, "method": method, "seed": seed, "note": str(error)[:300]}])
                    continue
                yield rows(name, method, seed, cost, scores)
                if arguments.task == "recovery" and model.module.scale_genes:
                    yield rows(name, method + ALONE, seed, cost, score(model, train, test, fit_section=False))
                # Taken from the model that has all genes of the training sections, as the ridge regression does.
                if method == "sagefm" and "neighbors" in wanted and arguments.task == "recovery":
                    ending = "_neighbors"
                    neighbors = {k.removesuffix(ending): v for k, v in scores.items() if k.endswith(ending)}
                    yield rows(name, "neighbors", 0, {}, neighbors)


def rows(dataset: str, method: str, seed: int, cost: dict[str, float], scores: dict[str, float]) -> pd.DataFrame:
    """Return one row per metric, leaving out those of the mean of the neighbours."""
    scores = {metric: value for metric, value in scores.items() if not metric.endswith("_neighbors")}
    account = {"dataset": dataset, "method": method, "seed": seed, **cost, "note": ""}
    return pd.DataFrame([{**account, "metric": metric, "value": value} for metric, value in scores.items()])


def trained(
    method: str, train: ad.AnnData, validate: Any, seed: int, folder: Path, fresh: bool
) -> tuple[sagefm.SAGEFM, dict[str, float]]:
    """Return a trained model and its training cost; a model that was trained before is loaded."""
    if method == "sagefm_pretrained":
        return pretrained(train), {"seconds": 0.0}
    target = folder / f"{method}_{seed}"
    account = target / "cost.json"
    if account.exists() and not fresh:
        return sagefm.SAGEFM.load(target, train), json.loads(account.read_text())
    scvi.settings.seed = seed
    arguments: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
    held_out = train.obs["sample"].isin(validate).to_numpy()
    if held_out.any():
        arguments["datasplitter_kwargs"] = {
            "external_indexing": [np.flatnonzero(~held_out), np.flatnonzero(held_out), np.array([], dtype=int)]
        }
    if method.startswith("published"):
        arguments = sagefm.SAGEFM.published_training() | {"max_epochs": MAX_EPOCHS} | arguments
        if method == "published":
            arguments |= {"early_stopping": False, "max_time": {"seconds": time_of_ours(folder, seed)}}
        model = sagefm.SAGEFM(train, **sagefm.SAGEFM.published_architecture())
    else:
        model = pretrained(train) if method == "sagefm_finetuned" else sagefm.SAGEFM(train)
    start, busy = time.perf_counter(), time.process_time()
    model.train(**arguments)
    cost = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "n_epochs": len(model.history["train_loss"]),
    }
    model.save(target, overwrite=True)
    account.write_text(json.dumps(cost))
    return model, cost


def pretrained(adata: ad.AnnData) -> sagefm.SAGEFM:
    """Return the model with the packaged weights, set up with the given sections."""
    return sagefm.SAGEFM.from_pretrained("human-mini", adata, sample_key="sample")


def time_of_ours(folder: Path, seed: int) -> float:
    """Return how many seconds sagefm was trained for, on the same data with the same seed."""
    account = folder / f"sagefm_{seed}" / "cost.json"
    if not account.exists():
        raise ValueError("the published architecture is trained for as long as ours: run the method sagefm first")
    return json.loads(account.read_text())["seconds"]


def masked_recovery(
    model: Any, train: ad.AnnData, test: ad.AnnData, n_masks: int = PROTOCOL["recovery"]["n_masks"], **options: bool
) -> dict[str, float]:
    """Score the recovery of genes that are masked at random in the central spot."""
    settings = {"n_masks": n_masks, "seed": PROTOCOL["recovery"]["mask_seed"], **options}
    totals = model.get_masked_recovery(test, **settings).attrs
    not_scores = {"mask_fraction", "n_masks", "fit_section", "seed", "n_sections", "n_spots", "spots"}
    return {key: value for key, value in totals.items() if key not in not_scores}


def missing_genes(model: Any, train: ad.AnnData, test: ad.AnnData) -> dict[str, float]:
    """Mask sets of genes in every spot, predict them, and correlate within sections."""
    task = PROTOCOL["missing_genes"]
    shared = train.var_names.intersection(test.var_names)
    total = pd.Series(np.asarray(train.X.sum(axis=0)).ravel(), index=train.var_names)[shared]
    genes = total.nlargest(task["n_genes"]).index
    r = pd.concat(
        [within_sections(model.impute_masked(test, genes=list(part)), test) for part in _sets(genes, task["n_sets"])]
    )
    return {"mean_r": float(r.mean()), "median_r": float(r.median()), "share_above_02": float((r > 0.2).mean())}


def _sets(genes: pd.Index, n_sets: int) -> list[np.ndarray]:
    return [genes[number::n_sets] for number in range(n_sets)]


def within_sections(predicted: pd.DataFrame, test: ad.AnnData) -> pd.Series:
    """Correlate predictions with log-normalised expression, gene by gene, within sections."""
    depth = np.asarray(test.X.sum(axis=1)).ravel()
    by_section, n = [], []
    for name in test.obs["sample"].unique():
        spots = (test.obs["sample"] == name).to_numpy()
        counts = test[spots, predicted.columns].X.toarray()
        truth = np.log1p(counts * (np.median(depth[spots]) / depth[spots])[:, None])
        truth = pd.DataFrame(truth, index=predicted.index[spots], columns=predicted.columns)
        found = predicted[spots].corrwith(truth)
        # A constant prediction scores 0; a constant gene is not scored.
        by_section.append(found.where(predicted[spots].std() > 0, 0).where(truth.std() > 0).to_numpy())
        n.append(np.full(len(found), spots.sum()))
    return pd.Series(fisher_average(np.stack(by_section), np.stack(n))[0], index=predicted.columns)
