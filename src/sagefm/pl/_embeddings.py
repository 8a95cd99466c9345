"""Comparison of two embeddings."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from sklearn.neighbors import NearestNeighbors

from sagefm.pl._model import _BLUE, _NEUTRAL, _VERMILION, _new_axes
from sagefm.tl._inputs import embedded, representation


def compare_embeddings(
    adata: AnnData, first: str, second: str, *, n_neighbors: int = 15, ax: Axes | None = None
) -> Axes:
    """Plot how many nearest neighbours the spots have in common in two embeddings.

    What two embeddings say of a spot is which others are like it; their axes cannot be compared. For each spot the
    nearest spots in one embedding are compared with those in the other. 1 is the same neighbours, and the line what two
    unrelated embeddings would share.

    Parameters
    ----------
    adata
        Spots with both embeddings. Spots whose row has NaN in either are left out.
    first, second
        Keys in `obsm`.
    n_neighbors
        Number of nearest spots compared.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    KeyError
        If a key is not there; the message lists those that are.
    ValueError
        If `n_neighbors` is not between 1 and the number of spots less 2.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> adata.obsm["X_5"] = adata.obsm["X_pca"][:, :5]
    >>> sagefm.pl.compare_embeddings(adata, "X_pca", "X_5").get_title()
    'X_pca and X_5'
    """
    values = [representation(adata, key) for key in (first, second)]
    rows = embedded(values[0], first) & embedded(values[1], second)
    if not 1 <= n_neighbors <= rows.sum() - 2:
        raise ValueError(f"n_neighbors={n_neighbors} must lie between 1 and {rows.sum() - 2}, the spots less two.")
    shared = _shared(values[0][rows], values[1][rows], n_neighbors)
    ax = _new_axes() if ax is None else ax
    bins = (np.arange(n_neighbors + 2) - 0.5) / n_neighbors
    ax.hist(shared, bins=bins.tolist(), color=_BLUE)
    ax.axvline(shared.mean(), color=_VERMILION, label=f"mean, {shared.mean():.2f}")
    ax.axvline(n_neighbors / (rows.sum() - 1), color=_NEUTRAL, linestyle="--", label="by chance")
    ax.set(xlabel=f"share of the {n_neighbors} nearest spots in common", ylabel="spots", title=f"{first} and {second}")
    ax.legend(frameon=False)
    return ax


def _shared(first: np.ndarray, second: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return the share of nearest neighbours in common, (spots,)."""
    graphs = [NearestNeighbors(n_neighbors=n_neighbors).fit(values).kneighbors_graph() for values in (first, second)]
    return np.asarray(graphs[0].multiply(graphs[1]).sum(axis=1)).ravel() / n_neighbors
