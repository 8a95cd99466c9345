"""The neighbour graph: built with squidpy where it is absent, checked, and turned into neighbourhood means."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.csgraph import breadth_first_order
from sklearn.neighbors import NearestNeighbors

from sagefm._errors import MissingKeyError

NEAREST_14 = "spatial_knn14"  # prefix of the keys of a graph that joins the 14 nearest spots on any layout
# A lattice neighbour lies within this many nearest-neighbour distances; the next ring starts at sqrt(2) or sqrt(3).
_LATTICE_TOLERANCE = 1.3
# On a lattice hardly a spot is nearer to another than this share of the spacing (at most 2 % of them in 49 real
# sections); of two sections laid over each other, more than this share of the spots are (11 % and more).
_TOO_NEAR, _OVERLAID = 0.7, 0.05
_MIN_SPOTS = {"hexagonal grid": 7, "square grid": 5, "irregular": 15}


def detect_lattice(coordinates: np.ndarray) -> str:
    """Tell a hexagonal from a square lattice by how many neighbours are about as near as the nearest one.

    The most regular quarter of the spots decides, since spots at the border of the tissue have fewer. On a hexagonal
    lattice the sixth may be a little far where coordinates are noisy.
    """
    n_neighbors = min(6, len(coordinates) - 1)
    distances, _ = NearestNeighbors(n_neighbors=n_neighbors).fit(coordinates).kneighbors()
    relative = np.quantile(distances, 0.25, axis=0) / np.median(distances[:, 0])
    n_near = int((relative < _LATTICE_TOLERANCE).sum())
    return {6: "hexagonal grid", 5: "hexagonal grid", 4: "square grid"}.get(n_near, "irregular")


def build_graph(
    adata: AnnData, *, spatial_key: str, sections: np.ndarray, key_added: str, layout: str | None = None
) -> str:
    """Write squidpy's neighbour graph of every section into `adata.obsp`, and say in one line what was built.

    Two rings on a hexagonal or square lattice, the 14 nearest spots on any other `layout`, which is found out if None.
    """
    coordinates = _checked_coordinates(adata, spatial_key)
    connectivities, distances, rows = [], [], []
    kinds: Counter[str] = Counter()
    for section in np.unique(sections):
        index = np.flatnonzero(sections == section)
        kind = _layout_with_enough_spots(coordinates[index], section, layout)
        if kind != "irregular":
            _warn_if_overlaid(coordinates[index], section)
        graph, distance = _squidpy_graph(coordinates[index], kind)
        connectivities.append(graph)
        distances.append(distance)
        rows.append(index)
        kinds[kind] += 1
    order = np.argsort(np.concatenate(rows))
    adata.obsp[f"{key_added}_connectivities"] = sp.block_diag(connectivities, format="csr")[order][:, order]
    adata.obsp[f"{key_added}_distances"] = sp.block_diag(distances, format="csr")[order][:, order]
    return _describe_graph(adata.obsp[f"{key_added}_connectivities"], kinds, key_added)


def _checked_coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    if spatial_key not in adata.obsm:
        raise MissingKeyError(
            f"There is neither a neighbour graph nor coordinates to build one from: obsm has no {spatial_key!r} "
            f"(it has {sorted(adata.obsm)}). Put the spots' coordinates there, or name their key with `spatial_key`."
        )
    coordinates = np.asarray(adata.obsm[spatial_key], dtype=float)
    if coordinates.ndim != 2 or not np.isfinite(coordinates).all():
        raise ValueError(
            f"obsm[{spatial_key!r}] must hold one finite coordinate pair for each spot; found shape "
            f"{coordinates.shape} with {int((~np.isfinite(coordinates)).sum())} values that are NaN or infinite."
        )
    return coordinates


def _layout_with_enough_spots(coordinates: np.ndarray, section: object, layout: str | None) -> str:
    n_spots = len(coordinates)
    n_places = len(np.unique(coordinates, axis=0))
    if n_places < n_spots:
        raise ValueError(
            f"{n_spots - n_places} of the {n_spots} spots of section {section!r} lie on the coordinates of another "
            "spot. If these are several sections, name the obs column that tells them apart with `sample_key`."
        )
    kind = layout or (detect_lattice(coordinates) if n_spots > 1 else "hexagonal grid")
    if n_spots < _MIN_SPOTS[kind]:
        raise ValueError(
            f"Section {section!r} has {n_spots} spot(s), fewer than the {_MIN_SPOTS[kind]} that a neighbourhood on a "
            f"layout like this ({kind}) needs. Leave the section out, or bring a graph of your own in obsp."
        )
    return kind


def _warn_if_overlaid(coordinates: np.ndarray, section: object) -> None:
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    share = float((distances < _TOO_NEAR * np.median(distances)).mean())
    if share > _OVERLAID:
        warnings.warn(
            f"{share:.0%} of the spots of section {section!r} are nearer to another than the spacing of their grid. If "
            "these are several sections, their neighbours are mixed: name the obs column that tells them apart with "
            "`sample_key`.",
            UserWarning,
            stacklevel=2,
        )


def _squidpy_graph(coordinates: np.ndarray, kind: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    from squidpy.gr import neighbors

    builder = {
        "hexagonal grid": lambda: neighbors.GridBuilder(n_neighs=6, n_rings=2),
        "square grid": lambda: neighbors.GridBuilder(n_neighs=4, n_rings=2),
        "irregular": lambda: neighbors.KNNBuilder(n_neighs=14),
    }[kind]()
    return builder.build(coordinates)


def _describe_graph(graph: sp.csr_matrix, kinds: Counter[str], key: str) -> str:
    rule = {"irregular": "irregular layout, 14 nearest spots"}
    parts = [
        f"{rule.get(kind, f'{kind}, 2 rings')} ({n_sections} section{'s' * (n_sections > 1)})"
        for kind, n_sections in kinds.items()
    ]
    how = f"{'; '.join(parts)}; {graph.nnz / graph.shape[0]:.1f} neighbours a spot"
    return f"Built the neighbour graph obsp['{key}_connectivities']: {how}."


def check_graph(connectivities: sp.spmatrix, sections: np.ndarray | None, key: str) -> sp.csr_matrix:
    """Return `connectivities` as a clean 0/1 CSR matrix without self loops, or say by name what is wrong with it.

    A stored zero is no edge, and a spot is no neighbour of itself. Directed graphs are kept: row `i` holds the
    neighbours of spot `i`. An isolated spot is kept as well.
    """
    graph = sp.csr_matrix(connectivities, dtype=np.float32, copy=True)
    graph.sum_duplicates()
    graph.setdiag(0)
    graph.eliminate_zeros()
    _refuse_weights(graph, key)
    if graph.nnz == 0:
        raise ValueError(
            f"The neighbour graph obsp[{key!r}] has no edges between different spots. "
            "Build it with squidpy, for example `squidpy.gr.spatial_neighbors_grid(adata, n_rings=2)`."
        )
    if sections is not None:
        _refuse_edges_between_sections(graph, sections, key)
    return graph


def _refuse_weights(graph: sp.csr_matrix, key: str) -> None:
    weights = graph.data[graph.data != 1]
    if len(weights):
        raise ValueError(
            f"The neighbour graph obsp[{key!r}] has {len(weights)} edges with a weight other than 1 (for example "
            f"{weights[0]:g}); SAGEFM takes the plain mean of the neighbours. Keep the edges and drop the weights with "
            f"`adata.obsp[{key!r}] = (adata.obsp[{key!r}] > 0).astype('float32')`."
        )


def _refuse_edges_between_sections(graph: sp.csr_matrix, sections: np.ndarray, key: str) -> None:
    edges = graph.tocoo()
    crossing = np.flatnonzero(sections[edges.row] != sections[edges.col])
    if len(crossing):
        first = crossing[0]
        raise ValueError(
            f"{len(crossing)} edges of the neighbour graph obsp[{key!r}] join spots of different sections (for example "
            f"{sections[edges.row[first]]!r} and {sections[edges.col[first]]!r}). Build the graph for each section "
            "apart: pass `library_key` to squidpy, or delete the graph and let `setup_anndata` build it."
        )


def neighbor_mean_operator(graph: sp.csr_matrix, *, with_self: bool = False) -> sp.csr_matrix:
    """Return the row-stochastic matrix that takes the mean over each spot's neighbours, and itself if asked.

    Without itself, an isolated spot's row is 0.
    """
    graph = sp.csr_matrix(graph + sp.eye_array(graph.shape[0])) if with_self else graph
    n_neighbors = np.diff(graph.indptr)
    means = graph.astype(np.float32)
    means.data = np.repeat(1 / np.maximum(n_neighbors, 1), n_neighbors).astype(np.float32)
    return means


def compact_blocks(graph: sp.csr_matrix, n_spots: int, *, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of about `n_spots` spots in `n_blocks` compact patches of the tissue, grown from random seeds."""
    taken = np.zeros(graph.shape[0], dtype=bool)
    symmetric = graph + graph.T
    for seed in rng.permutation(graph.shape[0]):
        n_missing = n_spots - int(taken.sum())
        if n_missing <= 0:
            break
        reached = breadth_first_order(symmetric, seed, return_predecessors=False)
        taken[reached[: min(n_missing, -(-n_spots // n_blocks))]] = True
    return np.flatnonzero(taken)


def spots_adjacent_to(graph: sp.csr_matrix, spots: np.ndarray) -> np.ndarray:
    """Return the rows of the spots that have one of `spots` among their neighbours."""
    return np.unique(graph[:, spots].tocoo().row)
