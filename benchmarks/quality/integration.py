"""Does integration help behind the embedding? Harmony on `X_sagefm` and on PCA, on the sections of two studies.

    python benchmarks/quality/integration.py [--mixing]

Breast: sections A1 to F1 of her2st, one of each patient. Heart: six sections of the developing heart. All sections are
embedded together by the packaged weights. Harmony (defaults, seed 0) gets the section as batch. Scores: the probe of
`sagefm.tl.annotate`, leaving out one section at a time, means over sections. Spots that pathologists called
undetermined are left out. `--mixing` adds summary scores of scib-metrics. Needs `harmonypy`, and `scib-metrics` for it.
"""

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import harmonypy
import numpy as np
import pandas as pd
import scanpy as sc
from _inputs import annotation, joined
from scipy.stats import bootstrap

import sagefm
from sagefm.tl._inputs import scaled_within

STUDIES = {"breast": ["her2st_andersson2021__[A-F]1"], "heart": ["heart_asp2019__*"]}
PLAIN = {"X_sagefm_harmony": "X_sagefm", "X_sagefm_scaled": "X_sagefm", "X_pca_harmony": "X_pca"}


def add_representations(adata: ad.AnnData) -> None:
    """Write all representations to `obsm`."""
    sagefm.SAGEFM.from_pretrained("human-mini", adata, sample_key="sample").get_latent_representation()
    variable = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
    sc.pp.highly_variable_genes(variable, n_top_genes=2000, batch_key="sample")
    adata.obsm["X_pca"] = sc.pp.pca(variable, n_comps=20, copy=True).obsm["X_pca"]
    adata.obsm["X_sagefm_scaled"] = scaled_within(adata.obsm["X_sagefm"], adata.obs["sample"].to_numpy())
    for key in ("X_sagefm", "X_pca"):
        adata.obsm[f"{key}_harmony"] = harmony(adata, key)


def harmony(adata: ad.AnnData, key: str) -> np.ndarray:
    """Return a representation after Harmony, one row per spot."""
    corrected = harmonypy.run_harmony(adata.obsm[key].astype(float), adata.obs, "sample", random_state=0).Z_corr
    return corrected if len(corrected) == adata.n_obs else corrected.T  # version 1 returns the transpose


def annotated(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """Return scores of the probe for each section that was left out."""
    labels = {"group_key": "sample", "key_added": "predicted"}
    return sagefm.tl.annotate(adata, "truth", use_rep=key, **labels).per_group


def mixed(adata: ad.AnnData) -> pd.DataFrame:
    """Return the summary scores of scib-metrics, one row per representation."""
    known = adata[adata.obs["truth"].notna()]
    columns = {"batch": known.obs["sample"].astype(str), "label": known.obs["truth"].astype(str)}
    keys = [key for key in known.obsm if key.startswith("X_")]
    plain = ad.AnnData(known.X, pd.DataFrame(columns), known.var[[]], obsm={key: known.obsm[key] for key in keys})
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "input.h5ad", Path(folder) / "scores.csv"
        plain.write_h5ad(source)
        subprocess.run([sys.executable, Path(__file__).parent / "_mixing.py", source, target], check=True)
        scores = pd.read_csv(target)
    return scores.pivot(index="embedding", columns="metric", values="value")


def difference(values: pd.Series) -> str:
    """Return a mean difference over sections with its 95 % interval by bootstrap."""
    draws = {"n_resamples": 9999, "method": "percentile", "rng": np.random.default_rng(0)}
    low, high = bootstrap((values.to_numpy(),), np.mean, **draws).confidence_interval
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def table(adata: ad.AnnData, with_mixing: bool) -> pd.DataFrame:
    """Return one row per representation: scores, and the difference that integration makes to balanced accuracy."""
    keys = [key for key in adata.obsm if key.startswith("X_")]
    by_section = {key: annotated(adata, key) for key in keys}
    rows = pd.DataFrame({key: scores[["accuracy", "balanced_accuracy"]].mean() for key, scores in by_section.items()}).T
    gains = {
        key: by_section[key]["balanced_accuracy"] - by_section[of]["balanced_accuracy"] for key, of in PLAIN.items()
    }
    rows["gain in balanced accuracy"] = pd.Series({key: difference(gain) for key, gain in gains.items()})
    rows = rows.fillna({"gain in balanced accuracy": ""})
    return rows.join(mixed(adata)[["Batch correction", "Bio conservation"]]) if with_mixing else rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for study, sections in STUDIES.items():
        adata = joined(sections)
        adata.obs["truth"] = annotation(adata)
        add_representations(adata)
        print(f"\n{study}\n")
        print(table(adata, "--mixing" in sys.argv).to_markdown(floatfmt=".2f"), flush=True)
