"""Tasks that score a representation; each accepts one data set and yields (settings, metric, value)."""

import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from _inputs import annotation
from _protocol import HERE, PROTOCOL
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

import sagefm

REP = "X_scored"
Score = tuple[dict[str, Any], str, float]


def domains(adata: ad.AnnData, result: np.ndarray, environments: Path) -> Iterator[Score]:
    """Cluster into the annotated number of domains, in the same way for all methods; compare with the annotation."""
    truth = annotation(adata)

    def compared(labels: np.ndarray, settings: dict[str, Any]) -> Iterator[Score]:
        known = truth.notna().to_numpy() & (labels >= 0)
        yield settings, "ARI", adjusted_rand_score(truth[known], labels[known])
        yield settings, "NMI", normalized_mutual_info_score(truth[known], labels[known])

    if result.ndim == 1:  # the method returns domains, not a representation
        yield from compared(result, {"clustering": "its own", "smooth": "0", "cluster_seed": 0})
        return
    adata.obsm[REP] = result
    protocol = PROTOCOL["domains"]
    for smooth in protocol["smooth"]:
        for clustering, seed in _seeds(protocol["consensus_seeds" if smooth == "auto" else "cluster_seeds"]):
            settings = {"clustering": clustering, "smooth": smooth, "cluster_seed": seed}
            yield from compared(clustered(adata, truth.nunique(), settings), settings)


def _seeds(by_clustering: dict[str, list[int]]) -> Iterator[tuple[str, int]]:
    return ((clustering, seed) for clustering, seeds in by_clustering.items() for seed in seeds)


def clustered(adata: ad.AnnData, n_domains: int, settings: dict[str, Any]) -> np.ndarray:
    """Return the domain of every spot; -1 for spots outside the subsample."""
    kept = np.ones(adata.n_obs, dtype=bool)
    if settings["clustering"] == "gmm_subsample":
        kept = np.random.default_rng(settings["cluster_seed"]).random(adata.n_obs) < PROTOCOL["domains"]["subsample"]
    spots = adata[kept].copy()
    method, smooth = settings["clustering"].removesuffix("_subsample"), settings["smooth"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Leiden resolution")
        sagefm.tl.domains(
            spots,
            n_domains,
            use_rep=REP,
            method=method,
            smooth=smooth if smooth == "auto" else int(smooth),
            seed=settings["cluster_seed"],
        )
    labels = np.full(adata.n_obs, -1)
    labels[kept] = spots.obs["domain"].cat.codes
    return labels


def annotate(adata: ad.AnnData, result: np.ndarray, environments: Path) -> Iterator[Score]:
    """Classify the tissue in held-out patients or sections by logistic regression on the frozen representation."""
    adata.obsm[REP] = result
    labels = {"determined": annotation(adata), "all": adata.obs["annotation"].astype(object)}
    for which, truth in labels.items():
        adata.obs["truth"] = truth
        for scale_by, with_neighbors in product(PROTOCOL["annotation"]["scale_by"], (False, True)):
            report = sagefm.tl.annotate(
                adata,
                "truth",
                use_rep=REP,
                group_key="patient",
                scale_by=scale_by or None,
                with_neighbors=with_neighbors,
            )
            settings = {"labels": which, "scale_by": scale_by or "nothing", "with_neighbors": with_neighbors}
            for metric in ("accuracy", "balanced_accuracy", "macro_f1", "majority_accuracy"):
                yield {**settings, "average": "spots"}, metric, getattr(report, metric)
                yield {**settings, "average": "patients"}, metric, float(report.per_group[metric].mean())
            yield {**settings, "average": "spots"}, "calibration_error", report.calibration_error
            for name, f1 in report.per_class["f1"].items():
                yield {**settings, "average": f"class {name}"}, "f1", f1


def regions(adata: ad.AnnData, result: np.ndarray, environments: Path) -> Iterator[Score]:
    """Classify the tissue of annotated regions from their pooled representation, each patient held out in turn."""
    adata.obsm[REP] = result
    for scale_by in PROTOCOL["annotation"]["scale_by"]:
        values = pd.DataFrame(result, index=adata.obs_names)
        if scale_by:
            by_section = values.groupby(adata.obs[scale_by].to_numpy())
            values = (values - by_section.transform("mean")) / by_section.transform("std")
        adata.obsm[REP] = values.to_numpy()
        truth = annotation(adata)
        region = adata.obs["sample"].astype(str) + "|" + truth.fillna("").astype(str)
        kept = (truth.notna() & (region.map(region.value_counts()) >= PROTOCOL["regions"]["min_spots"])).to_numpy()
        spots = adata[kept].copy()
        spots.obs["region"] = region[kept]
        for statistics in (["mean"], ["mean", "std"]):
            pooled = sagefm.tl.section_embedding(spots, sample_key="region", use_rep=REP, statistics=statistics)
            first = spots.obs.assign(truth=truth[kept]).drop_duplicates("region").set_index("region").loc[pooled.index]
            units = ad.AnnData(obs=first[["truth", "patient"]], obsm={REP: pooled.to_numpy()})
            report = sagefm.tl.annotate(units, "truth", use_rep=REP, group_key="patient", with_neighbors=False)
            settings = {"scale_by": scale_by or "nothing", "statistics": "+".join(statistics)}
            for metric in ("accuracy", "balanced_accuracy", "macro_f1", "majority_accuracy"):
                yield settings, metric, getattr(report, metric)
            yield settings, "n_regions", float(len(units))


def mixing(adata: ad.AnnData, result: np.ndarray, environments: Path) -> Iterator[Score]:
    """Score with scib-metrics how well patients mix and tissues stay separate; it needs its own environment."""
    labels = annotation(adata)
    known = labels.notna().to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scored.h5ad", Path(folder) / "scores.csv"
        light = ad.AnnData(
            adata.X[known], obs=pd.DataFrame({"batch": adata.obs["patient"][known], "label": labels[known].astype(str)})
        )
        light.obsm[REP] = result[known].astype(np.float32)
        light.obsm["scaled"] = scaled_within(result, adata.obs["sample"])[known].astype(np.float32)
        light.write_h5ad(source)
        python = environments / "mofa" / "bin" / "python"
        subprocess.run([python, HERE / "_mixing.py", source, target], check=True, capture_output=True)
        for row in pd.read_csv(target).itertuples():
            yield {"scale_by": "sample" if row.embedding == "scaled" else "nothing"}, row.metric, row.value


def scaled_within(values: np.ndarray, sections: pd.Series) -> np.ndarray:
    """Return `values` scaled to mean 0 and standard deviation 1 within each section."""
    scaled = np.empty_like(values)
    for name in sections.unique():
        rows = (sections == name).to_numpy()
        scaled[rows] = StandardScaler().fit_transform(values[rows])
    return scaled


SCORES = {"domains": domains, "annotation": annotate, "regions": regions, "mixing": mixing}
