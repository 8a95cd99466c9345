"""Comparison of two embeddings."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from sklearn.neighbors import NearestNeighbors

from sagefm.pl._style import BLUE, NEUTRAL, VERMILION, new_axes
from sagefm.tl._inputs import representation


def compare_embeddings(
    adata: AnnData, first: str, second: str, *, n_neighbors: int = 15, ax: Axes | None = None
) -> Axes:
    """Plot the share of nearest neighbours that each spot has in common in two embeddings.

    The axes of two embeddings cannot be compared, but the spots that are similar to a spot can. For each spot, the
    nearest spots in one embedding are compared with those in the other: 1 means the same neighbours, and the dashed
    line shows the share expected of two unrelated embeddings.

    Parameters
    ----------
    adata
        Spots with both embeddings. Spots with NaN in either are left out.
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
        If a key does not exist; the message lists those that do.
    ValueError
        If `n_neighbors` is not between 1 and the number of spots minus 2.

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
    (one, in_one), (two, in_two) = (representation(adata, key) for key in (first, second))
    rows = in_one & in_two
    n = int(rows.sum())
    if not 1 <= n_neighbors <= n - 2:
        raise ValueError(f"n_neighbors={n_neighbors} must lie between 1 and {n - 2}, the number of spots minus 2.")
    graphs = [NearestNeighbors(n_neighbors=n_neighbors).fit(values[rows]).kneighbors_graph() for values in (one, two)]
    shared = np.asarray(graphs[0].multiply(graphs[1]).sum(axis=1)).ravel() / n_neighbors
    ax = new_axes() if ax is None else ax
    bins = (np.arange(n_neighbors + 2) - 0.5) / n_neighbors
    ax.hist(shared, bins=bins.tolist(), color=BLUE)
    ax.axvline(shared.mean(), color=VERMILION, label=f"mean, {shared.mean():.2f}")
    ax.axvline(n_neighbors / (n - 1), color=NEUTRAL, linestyle="--", label="by chance")
    ax.set(xlabel=f"share of the {n_neighbors} nearest spots in common", ylabel="spots", title=f"{first} and {second}")
    ax.legend(frameon=False)
    return ax
