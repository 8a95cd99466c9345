"""Validated inputs of the tools: representations, neighbour graphs and columns of `obs`."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.preprocessing import StandardScaler

from sagefm._errors import MissingKeyError
from sagefm.data import check_graph, neighbor_mean_operator, obs_column, refuse_mudata


def representation(adata: AnnData, use_rep: str, obsm: str = "obsm") -> tuple[np.ndarray, np.ndarray]:
    """Return `obsm[use_rep]`, float64 (spots, features), and which spots are embedded, (spots,): those without NaN.

    `obsm` is what errors call it.
    """
    refuse_mudata(adata)
    if use_rep not in adata.obsm:
        raise MissingKeyError(
            f"use_rep={use_rep!r} is not in {obsm}; found {sorted(adata.obsm)}. "
            "`model.get_latent_representation()` writes 'X_sagefm', `scanpy.pp.pca` writes 'X_pca'."
        )
    values = as_numbers(adata.obsm[use_rep], f"{obsm}[{use_rep!r}]")
    if values.ndim != 2 or np.isinf(values).any():
        raise ValueError(
            f"{obsm}[{use_rep!r}] must hold one row of finite numbers for each spot; found shape {values.shape} with "
            f"{int(np.isinf(values).sum())} infinite values."
        )
    embedded = np.isfinite(values).all(axis=1)
    if not embedded.any():
        raise ValueError(f"Every row of {obsm}[{use_rep!r}] has NaN; at least some spots must be embedded.")
    return values, np.asarray(embedded)


def as_numbers(stored: Any, where: str) -> np.ndarray:
    """Return an array, sparse matrix or DataFrame as float64; whatever is missing in a DataFrame is NaN."""
    try:
        if isinstance(stored, pd.DataFrame):
            return stored.convert_dtypes().to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(stored.toarray() if hasattr(stored, "toarray") else stored, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must hold numbers: {error}.") from error


def groups(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """Return a column of `obs` that assigns every spot to a group, as text."""
    names = obs_column(adata, key, argument)
    if n_missing := int(names.isna().sum()):
        raise ValueError(
            f"obs[{key!r}] is missing for {n_missing} of {adata.n_obs} spots; {argument} needs a value for every spot."
        )
    return names.astype(str).to_numpy()


def scaled_within(values: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Return `values` scaled to mean 0 and standard deviation 1 within each section; NaN is ignored."""
    scaled = np.empty_like(values)
    for name in np.unique(sections):
        scaled[sections == name] = StandardScaler().fit_transform(values[sections == name])
    return scaled


def graph_of_embedded(
    adata: AnnData, embedded: np.ndarray, neighbors_key: str, sections: np.ndarray | None, instead: str = ""
) -> sp.csr_matrix:
    """Return the checked neighbour graph among embedded spots; `instead` ends the error if there is none."""
    key = f"{neighbors_key}_connectivities"
    if key not in adata.obsp:
        raise MissingKeyError(
            f"obsp has no neighbour graph {key!r}; found {sorted(adata.obsp)}. Build it with squidpy, for example "
            f"`squidpy.gr.spatial_neighbors_grid(adata, n_rings=2)`{instead}."
        )
    return check_graph(adata.obsp[key], sections, key)[embedded][:, embedded]


def neighborhood_means(
    adata: AnnData, values: np.ndarray, embedded: np.ndarray, neighbors_key: str, sample_key: str | None, rounds: int
) -> np.ndarray:
    """Replace the values of embedded spots by means over the spot and its embedded neighbours, `rounds` times."""
    sections = None if sample_key is None else groups(adata, sample_key, "sample_key")
    instead = ", or use spots without their neighbours: smooth=0 for domains, with_neighbors=False for annotation"
    graph = graph_of_embedded(adata, embedded, neighbors_key, sections, instead)
    operator, means = neighbor_mean_operator(graph, with_self=True), values.copy()
    for _ in range(rounds):
        means[embedded] = operator @ means[embedded]
    return means
