"""How well is a section of another patient labelled from an annotated reference? `sagefm.tl.map_query`, two studies.

    python benchmarks/quality/query_mapping.py

Breast: sections A1 to F1 of her2st, each of another patient; each is the query once, and the others are the reference.
Heart: the reference is section 4, of one embryo, and the queries are sections 5 and 6, of another. Every section is
embedded on its own by the packaged weights, trained on sections of patients A to D and of both embryos, without labels.
The other representation is a PCA of reference and query together (2,000 variable genes, 50 components, seed 0), which
has to be computed again for every new query. Spots that pathologists called undetermined are left out of the scores.
"""

import warnings
from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from _inputs import annotation, joined
from sklearn.metrics import accuracy_score, balanced_accuracy_score

import sagefm

WEIGHTS, THRESHOLD = "human-mini", 0.7
HEART = ["heart_asp2019__4_CN73_C2_HE", "heart_asp2019__5_CN74_E1_HE", "heart_asp2019__6_CN74_E2_HE"]


def breast() -> Iterator[tuple[list[str], list[str]]]:
    """Yield queries and references, each patient being the query once."""
    sections = [f"her2st_andersson2021__{patient}1" for patient in "ABCDEF"]
    for query in sections:
        yield [query], [name for name in sections if name != query]


def heart() -> Iterator[tuple[list[str], list[str]]]:
    """Yield the queries and the reference."""
    yield HEART[1:], HEART[:1]


def embedded(adata: ad.AnnData) -> np.ndarray:
    """Return the latent representation of each section, embedded without the others."""
    parts = [adata[adata.obs["sample"] == name].copy() for name in adata.obs["sample"].unique()]
    latent = [sagefm.SAGEFM.from_pretrained(WEIGHTS, part).get_latent_representation() for part in parts]
    names = np.concatenate([part.obs_names for part in parts])
    return pd.DataFrame(np.concatenate(latent), index=names).loc[adata.obs_names].to_numpy()


def components(adata: ad.AnnData) -> np.ndarray:
    """Return the principal components of all sections together."""
    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=2000, batch_key="sample")
    sc.pp.pca(logged, n_comps=50, random_state=0)
    return logged.obsm["X_pca"]


def mapped(adata: ad.AnnData, queries: list[str], references: list[str], **settings: str | None) -> pd.DataFrame:
    """Return section, truth, prediction and confidence of the labelled spots of the queries."""
    reference, query = (adata[adata.obs["sample"].isin(names)].copy() for names in (references, queries))
    group_key = "sample" if len(references) > 1 else None
    sagefm.tl.map_query(query, reference, "truth", group_key=group_key, threshold=0, **settings)
    columns = ["sample", "truth", "truth_predicted", "truth_predicted_confidence"]
    spots = query.obs.loc[query.obs["truth"].notna(), columns]
    return spots.set_axis(["sample", "truth", "predicted", "confidence"], axis=1).astype({"predicted": str})


def scores(spots: pd.DataFrame) -> dict[str, float]:
    """Score the spots of all queries; balanced accuracy is averaged over sections, which differ in their classes."""
    correct, kept = spots["truth"] == spots["predicted"], spots["confidence"] >= THRESHOLD
    sections = [part for _, part in spots.groupby("sample", observed=True)]
    bins = np.minimum((spots["confidence"] * 10).astype(int), 9)
    return {
        "spots": len(spots),
        "accuracy": accuracy_score(spots["truth"], spots["predicted"]),
        "balanced accuracy": np.mean([balanced_accuracy_score(part["truth"], part["predicted"]) for part in sections]),
        "calibration error": (spots["confidence"] - correct).groupby(bins).sum().abs().sum() / len(spots),
        f"share above {THRESHOLD}": kept.mean(),
        "accuracy there": correct[kept].mean(),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = []
    for study, sections, tasks in (("breast", ["her2st_andersson2021__[A-F]1"], breast), ("heart", HEART, heart)):
        adata = joined(sections)
        adata.obs["truth"] = annotation(adata)
        adata.obsm["X_sagefm"], adata.obsm["X_pca"] = embedded(adata), components(adata)
        for use_rep, scale_by in (("X_sagefm", None), ("X_sagefm", "sample"), ("X_pca", None), ("X_pca", "sample")):
            parts = [mapped(adata, *task, use_rep=use_rep, scale_by=scale_by) for task in tasks()]
            settings = {"study": study, "use_rep": use_rep, "scale_by": scale_by or ""}
            rows.append(settings | scores(pd.concat(parts)))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))
