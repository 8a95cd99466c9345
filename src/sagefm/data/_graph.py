"""The neighbour graph: built with squidpy where it is missing, checked, and turned into neighbourhood means."""

import warnings
from collections import Counter

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.csgraph import breadth_first_order
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from sagefm._errors import MissingKeyError

NEAREST_14 = "spatial_knn14"  # prefix of the keys of a graph that joins the 14 nearest spots on any layout
# Nearest spots that squidpy joins first; on a grid a second ring follows.
_N_NEAREST = {"hexagonal grid": 6, "square grid": 4, "irregular": 14}
# A lattice neighbour lies within this many nearest-neighbour distances; the next ring starts at sqrt(2) or sqrt(3).
_LATTICE_TOLERANCE = 1.3
# On a lattice, hardly any spot is closer to another than this share of the spacing (at most 2 % of them in 49 real
# sections); where two sections are laid over each other, more than this share of the spots are (11 % and more).
_TOO_CLOSE, _OVERLAID = 0.7, 0.05


def detect_lattice(coordinates: np.ndarray) -> str:
    """Classify a layout by the number of neighbours that are about as close as the nearest one.

    The most regular quarter of the spots decides, since spots at the border of the tissue have fewer. On a hexagonal
    lattice with noisy coordinates, the sixth may be a little too far.
    """
    n_neighbors = min(6, len(coordinates) - 1)
    distances, _ = NearestNeighbors(n_neighbors=n_neighbors).fit(coordinates).kneighbors()
    relative = np.quantile(distances, 0.25, axis=0) / np.median(distances[:, 0])
    n_near = int((relative < _LATTICE_TOLERANCE).sum())
    return {6: "hexagonal grid", 5: "hexagonal grid", 4: "square grid"}.get(n_near, "irregular")


def build_graph(adata: AnnData, sections: np.ndarray, *, spatial_key: str, key_added: str) -> str:
    """Write squidpy's neighbour graph of every section to `adata.obsp`, and return a description in one line.

    It has two rings on a hexagonal or square lattice and the 14 nearest spots on any other layout, or on all layouts
    if `key_added` is :data:`NEAREST_14`.
    """
    coordinates = _checked_coordinates(adata, spatial_key)
    names = np.unique(sections)
    rows = [np.flatnonzero(sections == name) for name in names]
    given = "irregular" if key_added == NEAREST_14 else None
    layouts = [_checked_layout(coordinates[index], name, given) for index, name in zip(rows, names, strict=True)]
    graphs = [_squidpy_graph(coordinates[index], layout) for index, layout in zip(rows, layouts, strict=True)]
    order = np.argsort(np.concatenate(rows))
    for name, blocks in zip(("connectivities", "distances"), zip(*graphs, strict=True), strict=True):
        adata.obsp[f"{key_added}_{name}"] = sp.block_diag(blocks, format="csr")[order][:, order]
    return _description(adata.obsp[f"{key_added}_connectivities"], layouts)


def _checked_coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    if spatial_key not in adata.obsm:
        raise MissingKeyError(
            f"There is neither a neighbour graph nor coordinates to build one from: obsm has no {spatial_key!r}; found "
            f"{sorted(adata.obsm)}. Put the spots' coordinates there, or pass their key as `spatial_key`."
        )
    coordinates = np.asarray(adata.obsm[spatial_key], dtype=float)
    if coordinates.ndim != 2 or not np.isfinite(coordinates).all():
        raise ValueError(
            f"obsm[{spatial_key!r}] must hold one finite coordinate pair for each spot; found shape "
            f"{coordinates.shape} with {int((~np.isfinite(coordinates)).sum())} values that are NaN or infinite."
        )
    return coordinates


def _checked_layout(coordinates: np.ndarray, section: object, layout: str | None) -> str:
    """Return the layout of a section, detected unless it is given; raise or warn if no graph can be built on it."""
    n_spots = len(coordinates)
    if n_duplicates := n_spots - len(np.unique(coordinates, axis=0)):
        raise ValueError(
            f"{n_duplicates} of the {n_spots} spots of section {section!r} have the same coordinates as another spot. "
            "If these are several sections, pass the obs column that distinguishes them as `sample_key`."
        )
    layout = layout or (detect_lattice(coordinates) if n_spots > 1 else "hexagonal grid")
    if n_spots <= _N_NEAREST[layout]:
        raise ValueError(
            f"Section {section!r} has {n_spots} spot(s), but a neighbourhood on this layout ({layout}) needs at least "
            f"{_N_NEAREST[layout] + 1}. Leave the section out, or provide your own graph in obsp."
        )
    if layout != "irregular":
        _warn_if_overlaid(coordinates, section)
    return layout


def _warn_if_overlaid(coordinates: np.ndarray, section: object) -> None:
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    share = float((distances < _TOO_CLOSE * np.median(distances)).mean())
    if share > _OVERLAID:
        warnings.warn(
            f"{share:.0%} of the spots of section {section!r} are closer to another spot than the spacing of their "
            "grid. If these are several sections, their neighbours are mixed: pass the obs column that distinguishes "
            "them as `sample_key`.",
            UserWarning,
            stacklevel=2,
        )


def _squidpy_graph(coordinates: np.ndarray, layout: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return connectivities and distances, each (n, n)."""
    from squidpy.gr import neighbors

    n_nearest = _N_NEAREST[layout]
    if layout == "irregular":
        return neighbors.KNNBuilder(n_neighs=n_nearest).build(coordinates)
    return neighbors.GridBuilder(n_neighs=n_nearest, n_rings=2).build(coordinates)


def _description(graph: sp.csr_matrix, layouts: list[str]) -> str:
    parts = []
    for layout, n in Counter(layouts).items():
        rule = "irregular layout, 14 nearest spots" if layout == "irregular" else f"{layout}, 2 rings"
        parts.append(f"{rule} ({n} section{'s' * (n > 1)})")
    return f"{'; '.join(parts)}; {graph.nnz / graph.shape[0]:.1f} neighbours per spot"


def check_graph(connectivities: sp.spmatrix, sections: np.ndarray | None, key: str) -> sp.csr_matrix:
    """Return `connectivities` as a 0/1 CSR matrix without self loops; raise for weights and edges between sections.

    A stored zero is not an edge, and a spot is not its own neighbour. Directed graphs are kept: row `i` holds the
    neighbours of spot `i`. Isolated spots are kept as well.
    """
    graph = sp.csr_matrix(connectivities, dtype=np.float32, copy=True)
    graph.sum_duplicates()
    graph.setdiag(0)
    graph.eliminate_zeros()
    weights = graph.data[graph.data != 1]
    if len(weights):
        raise ValueError(
            f"The neighbour graph obsp[{key!r}] has {len(weights)} edges with a weight other than 1 (for example "
            f"{weights[0]:g}); SAGEFM averages over neighbours without weights. Keep the edges and drop the weights "
            f"with `adata.obsp[{key!r}] = (adata.obsp[{key!r}] > 0).astype('float32')`."
        )
    if graph.nnz == 0:
        raise ValueError(
            f"The neighbour graph obsp[{key!r}] has no edges between different spots. "
            "Build it with squidpy, for example `squidpy.gr.spatial_neighbors_grid(adata, n_rings=2)`."
        )
    if sections is not None:
        _refuse_edges_between_sections(graph, sections, key)
    return graph


def _refuse_edges_between_sections(graph: sp.csr_matrix, sections: np.ndarray, key: str) -> None:
    edges = graph.tocoo()
    crossing = np.flatnonzero(sections[edges.row] != sections[edges.col])
    if len(crossing):
        first = crossing[0]
        raise ValueError(
            f"{len(crossing)} edges of the neighbour graph obsp[{key!r}] join spots of different sections (for example "
            f"{sections[edges.row[first]]!r} and {sections[edges.col[first]]!r}). Build the graph for each section "
            "separately: pass `library_key` to squidpy, or delete the graph and let `setup_anndata` build it."
        )


def neighbor_mean_operator(graph: sp.csr_matrix, *, with_self: bool = False) -> sp.csr_matrix:
    """Return the row-stochastic matrix that averages over each spot's neighbours, `with_self` over the spot as well.

    The row of an isolated spot is 0 unless `with_self`.
    """
    edges = sp.csr_matrix(graph, dtype=np.float32)
    return normalize(edges + sp.identity(len(edges.indptr) - 1, np.float32) if with_self else edges, norm="l1")


def compact_blocks(graph: sp.csr_matrix, n_spots: int, *, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of `n_spots` spots in about `n_blocks` compact patches of tissue, grown from random spots."""
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
