"""What the tools read of an AnnData, checked: representations, neighbour graphs and columns."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from sagefm._errors import MissingKeyError
from sagefm.data import check_graph, neighbor_mean_operator, obs_column


def representation(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return `obsm[use_rep]`, float64 (spots, numbers)."""
    if use_rep not in adata.obsm:
        raise MissingKeyError(
            f"use_rep={use_rep!r} is not in obsm; it has {sorted(adata.obsm)}. "
            "`model.get_latent_representation()` writes 'X_sagefm', `scanpy.pp.pca` writes 'X_pca'."
        )
    stored = adata.obsm[use_rep]
    values = np.asarray(stored.toarray() if hasattr(stored, "toarray") else stored, dtype=np.float64)
    if values.ndim != 2 or np.isinf(values).any():
        raise ValueError(
            f"obsm[{use_rep!r}] must hold one row of finite numbers for each spot; found shape {values.shape} with "
            f"{int(np.isinf(values).sum())} infinite values."
        )
    return values


def embedded(values: np.ndarray, use_rep: str) -> np.ndarray:
    """Tell which spots have a representation, boolean (spots,); NaN stands for spots that were not embedded."""
    present = ~np.isnan(values).any(axis=1)
    if not present.any():
        raise ValueError(f"Every row of obsm[{use_rep!r}] has NaN; at least some spots must be embedded.")
    return present


def groups(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """Return a column of `obs` that names a group for every spot, as text."""
    names = obs_column(adata, key, argument)
    if names.isna().any():
        raise ValueError(
            f"obs[{key!r}] is missing for {int(names.isna().sum())} of {adata.n_obs} spots; {argument} needs it for "
            "all of them."
        )
    return names.astype(str).to_numpy()


def scaled_within(values: np.ndarray, sections: np.ndarray | None) -> np.ndarray:
    """Return `values` at mean 0 and standard deviation 1 in every section, over the spots that have a value."""
    if sections is None:
        return values
    scaled = np.empty_like(values)
    for name in np.unique(sections):
        rows = sections == name
        deviation = np.nanstd(values[rows], axis=0)
        scaled[rows] = (values[rows] - np.nanmean(values[rows], axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled


def neighborhood_mean_operator(
    adata: AnnData, rows: np.ndarray, neighbors_key: str, sections: np.ndarray | None = None, *, instead: str
) -> sp.csr_matrix:
    """Return the operator that takes means over each of `rows` and its neighbours among them, (rows, rows)."""
    key = f"{neighbors_key}_connectivities"
    if key not in adata.obsp:
        raise MissingKeyError(
            f"obsp has no neighbour graph {key!r} to average over (it has {sorted(adata.obsp)}). Build it with "
            f"squidpy, for example `squidpy.gr.spatial_neighbors_grid(adata, n_rings=2)`, or pass {instead}."
        )
    graph = check_graph(adata.obsp[key], sections, key)
    return neighbor_mean_operator(graph[rows][:, rows], with_self=True)
