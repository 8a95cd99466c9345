"""The neighbour graph: built with squidpy where it is missing, checked, and turned into neighbourhood means."""

import warnings
from collections import Counter
from typing import Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.csgraph import breadth_first_order
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from sagefm._quiet import quiet
from sagefm.data._coordinates import are_hexagonal_array_positions, checked_coordinates, in_one_unit, row_axis
from sagefm.data._layout import HEXAGONAL, IRREGULAR, LATTICE_TOLERANCE, SQUARE, detect_lattice, lattice_by_directions
from sagefm.data._section_columns import warn_if_sections_are_joined

GraphKind = Literal["auto", "grid", "knn"]
KINDS = ("auto", "grid", "knn")
NEAREST_14 = "spatial_knn14"  # prefix of the keys of the graph of the SAGE-FM paper
# Nearest spots that squidpy joins first; on a grid a second ring follows.
_N_NEAREST = {HEXAGONAL: 6, SQUARE: 4, IRREGULAR: 14}
# squidpy's spacing is the median distance to these spots. If it exceeds that of the near ones by this factor, so many
# spots are missing that squidpy would join spots across gaps; then all spots within this many spacings are joined.
_GAPS, _REACH = {HEXAGONAL: 1.1, SQUARE: 1.03}, {HEXAGONAL: 1.35, SQUARE: 1.2}
_FEW = 30  # spots of a section most of whose spots are at its border; its graph is always that of squidpy
# On a lattice, hardly any spot is closer to another than this share of the spacing (at most 2 % of them in 49 real
# sections); where two sections are laid over each other, more than this share of the spots are (11 % and more).
_TOO_CLOSE, _OVERLAID = 0.7, 0.05


def build_graph(
    adata: AnnData, sections: np.ndarray, *, spatial_key: str, key_added: str, kind: GraphKind = "auto"
) -> str:
    """Write squidpy's neighbour graph of every section to `adata.obsp`, and return a description in one line.

    `kind` is `"grid"` for two rings on a hexagonal or square lattice, `"knn"` for the 14 nearest spots, or `"auto"` for
    rings where a lattice is found and the nearest spots elsewhere.
    """
    whole = checked_coordinates(adata, spatial_key)
    axis = row_axis(adata, spatial_key, whole)
    names = np.unique(sections)
    rows = [np.flatnonzero(sections == name) for name in names]
    coordinates = [in_one_unit(whole[index], axis, name) for index, name in zip(rows, names, strict=True)]
    layouts = _layouts(coordinates, names, kind)
    graphs = [_squidpy_graph(*section) for section in zip(coordinates, layouts, strict=True)]
    order = np.argsort(np.concatenate(rows))
    for name, blocks in zip(("connectivities", "distances"), zip(*graphs, strict=True), strict=True):
        adata.obsp[f"{key_added}_{name}"] = sp.block_diag(blocks, format="csr")[order][:, order]
    graph = adata.obsp[f"{key_added}_connectivities"]
    if whole.shape[1] == 3:
        return f"{_description(graph, layouts)}; three coordinates, as for a stack"
    found = zip(rows, coordinates, layouts, strict=True) if kind == "auto" else ()
    # The parts of a deformed grid may be less deformed than the whole.
    irregular = [
        (index, places) for index, places, layout in found if layout == IRREGULAR and not lattice_by_directions(places)
    ]
    warn_if_sections_are_joined(adata, graph, irregular=irregular, n_sections=len(names))
    return _description(graph, layouts)


def _layouts(coordinates: list[np.ndarray], names: np.ndarray, kind: GraphKind) -> list[str]:
    """Return the layout of each section; raise or warn if no graph can be built on it.

    A deformed grid counts as irregular, unless another section has a grid of the same kind, or a grid is requested.
    """
    sections = list(zip(coordinates, names, strict=True))
    layouts = [_checked_layout(places, name, kind) for places, name in sections]
    if kind == "auto" and len(set(layouts)) > 1 and IRREGULAR in layouts:
        layouts = [
            lattice if layout == IRREGULAR and (lattice := lattice_by_directions(places)) in layouts else layout
            for places, layout in zip(coordinates, layouts, strict=True)
        ]
        _warn_if_mixed(layouts, names)
    for (places, name), layout in zip(sections, layouts, strict=True):
        if layout != IRREGULAR:
            _warn_if_overlaid(places, name)
    return layouts


def _checked_layout(coordinates: np.ndarray, section: object, kind: GraphKind) -> str:
    """Return the layout of a section; raise if no graph can be built on it."""
    n_spots = len(coordinates)
    if n_duplicates := n_spots - len(np.unique(coordinates, axis=0)):
        raise ValueError(
            f"{n_duplicates} of the {n_spots} spots of section {section!r} have the same coordinates as another spot. "
            "If these are several sections, pass the obs column that distinguishes them as `sample_key`."
        )
    layout = _layout(coordinates, kind)
    if kind == "grid" and layout == IRREGULAR:
        raise ValueError(
            f"graph='grid', but the spots of section {section!r} are on neither a hexagonal nor a square grid. Pass "
            "graph='knn' to join the 14 nearest spots, or provide your own graph in obsp."
        )
    if n_spots <= _N_NEAREST[layout]:
        raise ValueError(
            f"Section {section!r} has {n_spots} spot(s), but a neighbourhood on this layout ({layout}) needs at least "
            f"{_N_NEAREST[layout] + 1}. Leave the section out, or provide your own graph in obsp."
        )
    return layout


def _layout(coordinates: np.ndarray, kind: GraphKind) -> str:
    if kind == "knn" or are_hexagonal_array_positions(coordinates):  # the latter are left if their row is not known
        return IRREGULAR
    layout = detect_lattice(coordinates) if len(coordinates) > 1 else HEXAGONAL
    return (lattice_by_directions(coordinates) or layout) if kind == "grid" and layout == IRREGULAR else layout


def _warn_if_mixed(layouts: list[str], names: np.ndarray) -> None:
    if len(set(layouts)) == 1 or IRREGULAR not in layouts:
        return
    irregular = [str(name) for name, layout in zip(names, layouts, strict=True) if layout == IRREGULAR]
    warnings.warn(
        f"No grid was found in {len(irregular)} of the {len(layouts)} sections (for example {irregular[0]!r}), so "
        "their spots are joined to the 14 nearest, but those of the other sections to two rings. If all sections come "
        "from one kind of array, delete the graph from obsp, and pass graph='grid' or graph='knn'.",
        UserWarning,
        stacklevel=2,
    )


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
    with quiet():
        from squidpy.gr import neighbors

    n_nearest = _N_NEAREST[layout]
    if layout == IRREGULAR:
        return neighbors.KNNBuilder(n_neighs=n_nearest).build(coordinates)
    distances, _ = NearestNeighbors(n_neighbors=n_nearest).fit(coordinates).kneighbors()
    spacing = np.median(distances[distances < LATTICE_TOLERANCE * np.median(distances[:, 0])])
    if np.median(distances) < _GAPS[layout] * spacing or len(coordinates) < _FEW:
        return neighbors.GridBuilder(n_neighs=n_nearest, n_rings=2).build(coordinates)
    first, _ = neighbors.RadiusBuilder(radius=_REACH[layout] * spacing).build(coordinates)
    return _with_second_ring(first)


def _with_second_ring(first: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return connectivities and distances, in steps, of all spots within two steps, as squidpy does."""
    within = sp.csr_matrix(first + first @ first > 0, dtype=np.float32)
    within.setdiag(0)
    within.eliminate_zeros()
    return within, sp.csr_matrix(2 * within - first)


def _description(graph: sp.csr_matrix, layouts: list[str]) -> str:
    parts = []
    for layout, n in Counter(layouts).items():
        rule = "irregular layout, 14 nearest spots" if layout == IRREGULAR else f"{layout}, 2 rings"
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
