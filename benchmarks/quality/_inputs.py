"""Inputs that all methods receive: raw counts, coordinates and a neighbour graph, without the annotations."""

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp

import sagefm

sys.path.insert(0, str(Path(__file__).parents[1]))
from _sections import FOLDER

UNDETERMINED = "undetermined"  # label used by the pathologists of her2st where they could not decide


def joined(patterns: list[str]) -> ad.AnnData:
    """Read sections and place them side by side.

    Spots without counts are dropped, as are genes that are not in all sections or are found in fewer than three spots.
    """
    paths = sorted({path for pattern in patterns for path in FOLDER.glob(f"{pattern}.h5ad")})
    if not paths:
        raise FileNotFoundError(f"No section in {FOLDER} matches {patterns}; name the folder above with SAGEFM_DATA.")
    parts = {path.stem: ad.read_h5ad(path) for path in paths}
    for name, part in parts.items():
        part.obs["sample"], part.X = name, sp.csr_matrix(part.X, dtype=np.float32)
    adata = ad.concat(parts, join="inner", index_unique="-")
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0]
    adata = adata[:, np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 3].copy()
    technologies = [part.uns.get("sagefm_source", {}).get("technology", "") for part in parts.values()]
    adata.uns["single_cells"] = any("single cell" in technology for technology in technologies)
    adata.obs["patient"] = [_patient(name) for name in adata.obs["sample"]]
    adata.obsm["spatial"] = side_by_side(np.asarray(adata.obsm["spatial"], dtype=float), adata.obs["sample"])
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return adata


def _patient(section: str) -> str:
    """Return the patient: the letter in the section names of her2st, the section itself in other studies."""
    study, _, name = section.partition("__")
    return name[0] if study.startswith("her2st") else section


def side_by_side(coordinates: np.ndarray, sections: pd.Series) -> np.ndarray:
    """Shift sections so far apart that no spot has a near neighbour in another section."""
    codes = pd.factorize(sections)[0]
    extent = np.ptp(coordinates, axis=0).max()
    return coordinates + np.stack([codes * 3 * extent, np.zeros(len(codes))], axis=1)


def annotation(adata: ad.AnnData) -> pd.Series:
    """Return the annotation, missing (NaN) for spots that are not annotated or undetermined."""
    labels = adata.obs["annotation"].astype(object)
    return labels.where(labels.notna() & (labels != UNDETERMINED))


def for_methods(patterns: list[str]) -> tuple[ad.AnnData, ad.AnnData]:
    """Return the full sections, and the reduced AnnData that methods receive."""
    adata = joined(patterns)
    given = ad.AnnData(adata.X, obs=adata.obs[["sample"]], var=adata.var[[]], obsm={"spatial": adata.obsm["spatial"]})
    for key in ("spatial_connectivities", "spatial_distances"):
        given.obsp[key] = adata.obsp[key]
    # Ranked here for all methods, because the ranking needs a package that some environments lack.
    ranked = sc.pp.highly_variable_genes(given, flavor="seurat_v3", n_top_genes=given.n_vars, inplace=False)
    given.var["variability_rank"] = ranked["highly_variable_rank"].to_numpy()
    given.uns["single_cells"] = adata.uns["single_cells"]
    if "annotation" in adata.obs:
        given.uns["n_domains"] = int(annotation(adata).nunique())
    return adata, given
