"""Rings of neighbours: steps on the graph of nearest neighbours, which is found in a wider graph."""

import numpy as np
import scipy.sparse as sp

# On a grid, the nearest neighbours lie within this many shortest edges; the next ring starts at sqrt(2) or sqrt(3).
_GRID_TOLERANCE = 1.3
_N_NEAREST = 6  # edges kept for each spot on irregular layouts
_MIN_ON_GRID = 4  # neighbours at the shortest distance that the best connected spots of a grid have


def rings_of_neighbors(graph: sp.csr_matrix, distances: sp.csr_matrix | None, n_rings: int) -> list[sp.csr_matrix]:
    """Return `n_rings` symmetric 0/1 matrices, (spots, spots): the spots that are 1, 2, ... steps away.

    A step is one of the shortest edges of `graph` on a grid, and one of a spot's six shortest edges elsewhere; without
    `distances` it is any edge.
    """
    nearest = graph if distances is None else _nearest(graph, distances)
    first = _pattern(nearest + nearest.T)
    reached = _pattern(first + sp.eye_array(graph.shape[0], dtype=np.float32, format="csr"))
    rings = [first]
    while len(rings) < n_rings:
        further = _pattern(rings[-1] @ first)
        further = sp.csr_matrix(further - further.multiply(reached))
        further.eliminate_zeros()
        rings.append(further)
        reached = reached + further
    return rings


def _nearest(graph: sp.csr_matrix, distances: sp.csr_matrix) -> sp.csr_matrix:
    """Keep the shortest edges of `graph`: those of a grid's first ring, or each spot's six shortest ones."""
    lengths = sp.csr_matrix(distances.multiply(graph))
    if not lengths.nnz:
        return graph
    spot = np.repeat(np.arange(lengths.shape[0]), np.diff(lengths.indptr))
    kept = _on_grid(lengths.data, spot, lengths.shape[0])
    if kept is None:
        order = np.lexsort((lengths.data, spot))
        rank = np.empty(len(spot), dtype=int)
        rank[order] = np.arange(len(spot)) - np.repeat(lengths.indptr[:-1], np.diff(lengths.indptr))
        kept = rank < _N_NEAREST
    return sp.csr_matrix((np.ones(kept.sum(), np.float32), (spot[kept], lengths.indices[kept])), graph.shape)


def _on_grid(lengths: np.ndarray, spot: np.ndarray, n_spots: int) -> np.ndarray | None:
    """Return which edges join nearest neighbours on a grid; None if the spots are not on a grid."""
    shortest = np.full(n_spots, np.inf)
    np.minimum.at(shortest, spot, lengths)
    spacing = np.median(shortest[np.isfinite(shortest)])
    kept = lengths <= _GRID_TOLERANCE * spacing
    n_near = np.bincount(spot[kept], minlength=n_spots)
    irregular = np.quantile(n_near, 0.95) < _MIN_ON_GRID or np.ptp(lengths[kept]) > 0.2 * spacing
    return None if irregular else kept


def _pattern(matrix: sp.spmatrix) -> sp.csr_matrix:
    """Return 1 wherever `matrix` stores a value."""
    pattern = sp.csr_matrix(matrix, dtype=np.float32)
    pattern.data[:] = 1
    return pattern
