"""Preprocessing shared by many methods. Runs in every environment, so it imports only scanpy and scipy."""

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData


def log_normalized(adata: AnnData, n_top_genes: int | None = None) -> AnnData:
    """Return log-normalised expression of all genes, or of the most variable ones."""
    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    return logged if n_top_genes is None else most_variable(logged, n_top_genes)


def most_variable(adata: AnnData, n_top_genes: int) -> AnnData:
    """Return the most variable genes, by the ranking stored in the input."""
    return adata[:, adata.var["variability_rank"] < n_top_genes].copy()


def neighborhood_mean(adata: AnnData, values: sp.spmatrix, with_self: bool = True) -> sp.csr_matrix:
    """Return the mean over the neighbours of each spot, with or without the spot itself."""
    graph = sp.csr_matrix(adata.obsp["spatial_connectivities"] > 0, dtype=np.float32)
    graph = graph + sp.eye_array(adata.n_obs) if with_self else graph
    n_neighbors = np.asarray(graph.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags_array(1 / np.maximum(n_neighbors, 1)) @ graph @ values)


def pca(values: sp.spmatrix, n_components: int = 20) -> np.ndarray:
    """Return principal components."""
    n_components = min(n_components, min(values.shape) - 1)
    return sc.pp.pca(sp.csr_matrix(values, dtype=np.float32), n_comps=n_components, svd_solver="arpack")
