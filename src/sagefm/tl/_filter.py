"""Factorial kriging of a representation: each axis without the noise that differs from spot to spot."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sagefm.data import refuse_unwritable_key
from sagefm.tl._inputs import graph_of_embedded, groups, representation
from sagefm.tl._kriging import AxisVariograms, filtered_by_section
from sagefm.tl._rings import rings_of_neighbors

N_RINGS = 4


def spatial_filter(
    adata: AnnData,
    *,
    use_rep: str = "X_sagefm",
    n_rings: int = N_RINGS,
    neighbors_key: str = "spatial",
    sample_key: str | None = None,
    key_added: str | None = None,
) -> None:
    r"""Remove spot-to-spot noise from a representation by factorial kriging.

    Each axis is the sum of a spatial part and of noise that is independent between spots, the nugget of its variogram.
    The spatial part :math:`s` is predicted from the spot and from the means :math:`\bar z_r` over rings of neighbours,

    .. math:: \hat s_i = z_i + \sum_r v_r\,(\bar z_{ir} - z_i),

    with the weights :math:`v` that minimise the squared error: :math:`v = \nu\,G^{-1} 1`, where :math:`\nu` is the
    nugget and :math:`G` the second moments of the differences :math:`\bar z_r - z`. So an axis that varies over long
    distances is averaged widely, one that varies over short distances hardly, and no width has to be chosen. The
    weights sum to 1 at most, so they do not depend on the mean of the section. An axis whose neighbours do not agree
    more than chance becomes constant within the section.

    Rings are counted in steps on the graph of nearest neighbours: the shortest edges of `neighbors_key` on a grid, each
    spot's six shortest edges on irregular layouts. Spots with few neighbours are predicted from the rings they have;
    an isolated spot keeps its values.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp`. Rows with NaN are left out.
    use_rep
        Key in `obsm` of the representation.
    n_rings
        Number of rings.
    neighbors_key
        Prefix of the neighbour graph's keys in `obsp`. Lengths of edges are read from
        `obsp[f"{neighbors_key}_distances"]`; without it, every neighbour belongs to the first ring.
    sample_key
        Column of `obs` with the section of each spot. Variograms and weights are estimated for each section separately;
        None treats all spots as one section.
    key_added
        Key in `obsm` of the filtered representation, by default `f"{use_rep}_filtered"`. `uns[key_added]` holds the
        arguments (`params`) and two tables. `axes` has the columns `section`, `axis`, `variance`, `spatial_share`
        (share of the variance that is not nugget) and `range` (effective range of an exponential covariance, in rings,
        60 at most; NaN for an axis that is not spatial). `variograms` has the columns `section`, `axis`, `ring`,
        `semivariance` and `n_pairs`; :func:`sagefm.pl.variograms` plots it.

    Raises
    ------
    KeyError
        If a key is missing; the message lists those available.
    ValueError
        If `n_rings` is less than 2, or the graph joins two sections.

    References
    ----------
    G. Matheron, "Pour une analyse krigeante de données régionalisées" (1982); P. Goovaerts, "Geostatistics for Natural
    Resources Evaluation" (Oxford University Press, 1997), section 5.6.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> sagefm.tl.spatial_filter(adata, use_rep="X_pca")
    >>> adata.obsm["X_pca_filtered"].shape
    (300, 10)
    """
    if n_rings < 2:
        raise ValueError(f"n_rings={n_rings} must be 2 or more: the nugget is estimated from the first two rings.")
    refuse_unwritable_key(key_added, "key_added")
    values, embedded = representation(adata, use_rep)
    sections = None if sample_key is None else groups(adata, sample_key, "sample_key")
    graph = graph_of_embedded(adata, embedded, neighbors_key, sections)
    rings = rings_of_embedded(adata, embedded, neighbors_key, graph, n_rings)
    filtered = np.full_like(values, np.nan)
    filtered[embedded], found = filtered_by_section(values[embedded], rings, names_of(sections, embedded))
    key = f"{use_rep}_filtered" if key_added is None else key_added
    adata.obsm[key] = filtered
    params = {"use_rep": use_rep, "n_rings": n_rings, "neighbors_key": neighbors_key, "sample_key": sample_key}
    adata.uns[key] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "axes": pd.concat([_table_of_axes(name, one) for name, one in found.items()], ignore_index=True),
        "variograms": pd.concat([_table_of_variograms(name, one) for name, one in found.items()], ignore_index=True),
    }


def rings_of_embedded(
    adata: AnnData, embedded: np.ndarray, neighbors_key: str, graph: sp.csr_matrix, n_rings: int = N_RINGS
) -> list[sp.csr_matrix]:
    """Return the rings of neighbours in the `graph` of embedded spots, nearest first, each (spots, spots)."""
    lengths = adata.obsp.get(f"{neighbors_key}_distances")
    among = None if lengths is None else sp.csr_matrix(lengths)[embedded][:, embedded]
    return rings_of_neighbors(graph, among, n_rings)


def names_of(sections: np.ndarray | None, embedded: np.ndarray) -> np.ndarray:
    """Return the section of every embedded spot; without sections, one name for all."""
    return np.zeros(int(embedded.sum()), dtype="<U1") if sections is None else sections[embedded]


def _table_of_axes(section: str, variograms: AxisVariograms) -> pd.DataFrame:
    columns = {
        "section": section,
        "axis": np.arange(len(variograms.variance)),
        "variance": variograms.variance,
        "spatial_share": variograms.spatial_share,
        "range": variograms.effective_range,
    }
    return pd.DataFrame(columns)


def _table_of_variograms(section: str, variograms: AxisVariograms) -> pd.DataFrame:
    n_rings, n_axes = variograms.semivariance.shape
    columns = {
        "section": section,
        "axis": np.repeat(np.arange(n_axes), n_rings),
        "ring": np.tile(np.arange(1, n_rings + 1), n_axes),
        "semivariance": variograms.semivariance.T.ravel(),
        "n_pairs": np.tile(variograms.n_pairs, n_axes),
    }
    return pd.DataFrame(columns)
