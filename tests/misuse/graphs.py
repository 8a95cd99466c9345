"""Rows about neighbour graphs."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from misuse.table import SAME, Gives, Raises, Row, Warns

import sagefm

GRAPH = "spatial_connectivities"
setup = sagefm.SAGEFM.setup_anndata


def dense(w) -> np.ndarray:
    return w.section().obsp[GRAPH].toarray()


def two_with_graph_of_one(w) -> None:
    adata = w.two()
    setup(adata)


def two_joined(w) -> None:
    adata = w.two()
    setup(adata, sample_key="sample")
    graph = adata.obsp[GRAPH].tolil()
    graph[0, 64] = 1
    adata.obsp[GRAPH] = graph.tocsr()
    setup(adata, sample_key="sample")


def two_separately(w) -> bool:
    adata = w.two()
    setup(adata, sample_key="sample")
    edges = adata.obsp[GRAPH].tocoo()
    samples = adata.obs["sample"].to_numpy()
    return (samples[edges.row] == samples[edges.col]).all()


def of_another(w) -> None:
    w.section().obsp[GRAPH] = sp.eye(63, format="csr")


def subset(w) -> bool:
    part = w.section()[:40].copy()
    alone = part.copy()
    alone.obsp[GRAPH] = w.section().obsp[GRAPH][:40][:, :40]
    return np.array_equal(w.embed(part), w.embed(alone)) and not np.allclose(w.embed(part), w.expected[:40])


def reordered(w) -> bool:
    order = np.random.default_rng(0).permutation(64)
    return np.allclose(w.embed(w.section()[order].copy()), w.expected[order], atol=1e-5)


def concatenated(w) -> bool:
    adata = ad.concat({name: w.section() for name in "AB"}, label="sample", index_unique="-", pairwise=True)
    setup(adata, sample_key="sample")
    return adata.obsp[GRAPH].nnz == 2 * w.section().obsp[GRAPH].nnz


def concatenated_without_graph(w) -> bool:
    adata = ad.concat({name: w.section() for name in "AB"}, label="sample", index_unique="-")
    setup(adata, sample_key="sample")
    return adata.obsp[GRAPH].nnz == 2 * w.section().obsp[GRAPH].nnz


def isolated(w) -> bool:
    graph = dense(w)
    graph[5] = graph[:, 5] = 0
    latent = w.embed(w.with_graph(graph))
    return np.isfinite(latent).all() and not np.allclose(latent[5], w.expected[5])


def directed(w) -> bool:
    graph = dense(w)
    graph[:, 5] = 0
    latent = w.embed(w.with_graph(graph))
    return np.allclose(latent[5], w.expected[5], atol=1e-5) and not np.allclose(latent, w.expected)


def stored_zeros(w) -> bool:
    section = w.section()
    graph = section.obsp[GRAPH].copy()
    missing = sp.csr_matrix(([0.0], ([0], [63])), shape=graph.shape)
    rows, columns = (
        np.concatenate([getattr(graph.tocoo(), name), getattr(missing.tocoo(), name)]) for name in ("row", "col")
    )
    section.obsp[GRAPH] = sp.csr_matrix((np.append(graph.data, 0), (rows, columns)), shape=graph.shape)
    return section.obsp[GRAPH].nnz == graph.nnz + 1 and w.is_as_expected(section)


def without_graph(w, change) -> None:
    section = w.section()
    del section.obsp
    change(section)
    setup(section)


def duplicated(section) -> None:
    section.obsm["spatial"][1] = section.obsm["spatial"][0]


def with_nan(section) -> None:
    section.obsm["spatial"] = section.obsm["spatial"].astype(float)
    section.obsm["spatial"][3, 0] = np.nan


def without_coordinates(section) -> None:
    del section.obsm["spatial"]


def with_third_column(section) -> None:
    section.obsm["spatial"] = np.c_[section.obsm["spatial"], np.arange(64) % 2]


def with_positions_table(section) -> None:
    x, y = section.obsm["spatial"].T
    table = {"in_tissue": 1, "array_row": 0, "array_col": 0, "pxl_row_in_fullres": y, "pxl_col_in_fullres": x}
    section.obsm["spatial"] = pd.DataFrame(table, index=section.obs_names)


def same_graph(w, change) -> bool:
    section = w.section()
    del section.obsp
    change(section)
    setup(section)
    return (section.obsp[GRAPH] != w.section().obsp[GRAPH]).nnz == 0


def sparse_coordinates(section) -> None:
    section.obsm["spatial"] = sp.csr_matrix(section.obsm["spatial"])


def array_positions(section) -> None:
    section.obsm["spatial"] = section.obs[["array_row", "array_col"]].to_numpy()


def array_positions_without_rows(w) -> bool:
    section = w.section()
    del section.obsp
    array_positions(section)
    del section.obs["array_row"]
    setup(section)
    return (np.diff(section.obsp[GRAPH].indptr) == 14).all()


def half_missing(w) -> bool:
    kept = np.random.default_rng(0).random(400) >= 0.5
    whole = sagefm.datasets.simulated_tissue(20, 20, n_genes=60, n_interactions=0, outline="rectangle")
    section = whole[kept].copy()
    setup(section)
    setup(whole)
    ring = whole.obsp["spatial_distances"].multiply(whole.obsp["spatial_distances"] == 1)[kept][:, kept]
    within = ring + ring @ ring
    within.setdiag(0)
    return ((within > 0) != (section.obsp[GRAPH] > 0)).nnz == 0


def overlapping(w, column: str | None = "sample") -> ad.AnnData:
    adata = w.two()
    second = adata.obs["sample"].to_numpy() == "B"
    adata.obsm["spatial"] = np.where(second[:, None], adata.obsm["spatial"] * 1.17 + 31, adata.obsm["spatial"])
    adata.obs = pd.DataFrame(index=adata.obs_names) if column is None else adata.obs.rename(columns={"sample": column})
    adata.obs = adata.obs[[column] if column else []]
    return adata


def overlapping_without_key(w, column: str | None) -> bool:
    adata = overlapping(w, column)
    if column is None:
        adata.uns["spatial"] = {"A": {}, "B": {}}
    setup(adata)
    return adata.obsp[GRAPH][:64, 64:].nnz > 0


def overlapping_with_key(w) -> bool:
    adata = overlapping(w)
    setup(adata, sample_key="sample")
    return adata.obsp[GRAPH][:64, 64:].nnz == 0


def cells_beside_a_grid(w, **kwargs: str) -> ad.AnnData:
    adata = w.two()
    adata.obsm["spatial"][64:] = 1000 * np.random.default_rng(0).random((64, 2))
    setup(adata, sample_key="sample", **kwargs)
    return adata


def mixed(w) -> bool:
    n_neighbors = np.diff(cells_beside_a_grid(w).obsp[GRAPH].indptr)
    return n_neighbors[:64].max() == 18 and (n_neighbors[64:] == 14).all()


def of_one_kind(w) -> bool:
    return (np.diff(cells_beside_a_grid(w, graph="knn").obsp[GRAPH].indptr) == 14).all()


def outside_tissue(w) -> bool:
    section = w.section()
    section.obs["in_tissue"] = (np.arange(64) > 4).astype(int)
    return w.is_as_expected(section)


def few(w) -> None:
    section = w.section()[:4].copy()
    del section.obsp
    setup(section)


def after_setup(w, change) -> None:
    section = w.section()
    setup(section)
    model = sagefm.SAGEFM(section)
    change(section)
    model.train(max_epochs=1)


def emptied(section) -> None:
    section.obsp[GRAPH] = sp.csr_matrix((64, 64))


def deleted(section) -> None:
    del section.obsp[GRAPH]


ROWS = [
    Row(
        "edges between two sections",
        two_joined,
        Raises(ValueError, "1 edges .* join spots of different sections .*'A' and 'B'.*library_key"),
    ),
    Row(
        "two sections on the same coordinates, without `sample_key`",
        two_with_graph_of_one,
        Raises(ValueError, "64 of the 128 spots .* have the same coordinates as another spot.*sample_key"),
    ),
    Row(
        "two sections on the same coordinates, with `sample_key`",
        two_separately,
        Gives("a separate graph for each section"),
    ),
    Row("self loops", lambda w: w.is_as_expected(w.with_graph(dense(w) + np.eye(64))), SAME),
    Row("stored zeros", stored_zeros, SAME),
    Row(
        "weights of NaN",
        lambda w: w.embed(w.with_graph(np.where(dense(w) > 0, np.nan, 0))),
        Raises(ValueError, "edges with a weight other than 1 .*nan.*drop the weights"),
    ),
    Row(
        "weights of distance",
        lambda w: w.embed(w.with_graph(dense(w) * 0.5)),
        Raises(ValueError, "edges with a weight other than 1 .*0.5.*drop the weights"),
    ),
    Row(
        "negative weights",
        lambda w: w.embed(w.with_graph(-dense(w))),
        Raises(ValueError, "edges with a weight other than 1 .*-1"),
    ),
    Row("a boolean graph", lambda w: w.is_as_expected(w.with_graph(dense(w) > 0)), SAME),
    Row("the graph of another AnnData", of_another, Raises(ValueError, r"is of incorrect shape.*had shape \(63, 63\)")),
    Row(
        "a graph without edges",
        lambda w: w.embed(w.with_graph(np.zeros((64, 64)))),
        Raises(ValueError, "has no edges between different spots.*spatial_neighbors_grid"),
    ),
    Row(
        "a graph of self loops only",
        lambda w: w.embed(w.with_graph(np.eye(64))),
        Raises(ValueError, "has no edges between different spots"),
    ),
    Row("spots removed after the graph was built", subset, Gives("the remaining neighbours are used")),
    Row("spots in another order, with their graph", reordered, Gives("the same results in the new order")),
    Row("sections concatenated with `pairwise=True`", concatenated, Gives("the graphs of the sections")),
    Row(
        "sections concatenated without their graphs",
        concatenated_without_graph,
        Gives("new graphs, one for each section"),
    ),
    Row("an isolated spot", isolated, Gives("the spot is its own neighbourhood")),
    Row("a directed graph", directed, Gives("row `i` holds the neighbours of spot `i`")),
    Row(
        "two spots with the same coordinates, no graph",
        lambda w: without_graph(w, duplicated),
        Raises(ValueError, "1 of the 64 spots of section 'all' have the same coordinates as another"),
    ),
    Row(
        "a coordinate is NaN, no graph",
        lambda w: without_graph(w, with_nan),
        Raises(ValueError, "one finite coordinate pair for each spot.*1 values that are NaN.*leave these spots out"),
    ),
    Row("coordinates as a sparse matrix, no graph", lambda w: same_graph(w, sparse_coordinates), SAME),
    Row(
        "coordinates with a third column, no graph",
        lambda w: without_graph(w, with_third_column),
        Raises(ValueError, r"must have two columns.*shape \(64, 3\).*If the third is the depth in a stack.*name them"),
    ),
    Row(
        "the whole table of positions as coordinates, no graph",
        lambda w: without_graph(w, with_positions_table),
        Raises(ValueError, "must have two columns.*'in_tissue'.*Keep the two.*'pxl_row_in_fullres'"),
    ),
    Row(
        "`array_row` and `array_col` of a hexagonal grid as coordinates, no graph",
        lambda w: same_graph(w, array_positions),
        Gives("the graph of the coordinates in pixels"),
    ),
    Row(
        "the same without a column `array_row` in `obs`",
        array_positions_without_rows,
        Warns("look like rows and columns of a Visium array.*not known which", "the 14 nearest spots"),
    ),
    Row(
        "a hexagonal grid, half of whose spots are missing, no graph",
        half_missing,
        Gives("two rings, which do not cross gaps"),
    ),
    Row(
        "two sections whose coordinates overlap, without `sample_key`",
        lambda w: overlapping_without_key(w, "sample"),
        Warns(
            r"edges of the new neighbour graph join spots with different obs\['sample'\].*pass `sample_key='sample'`",
            "one graph",
        ),
    ),
    Row(
        "the same, with sections in a column of another name",
        lambda w: overlapping_without_key(w, "where"),
        Warns(r"join spots with different obs\['where'\].*pass `sample_key='where'`", "one graph"),
    ),
    Row(
        "the same, with sections in `uns['spatial']` only",
        lambda w: overlapping_without_key(w, None),
        Warns(r"uns\['spatial'\] has 2 libraries.*`sample_key`", "one graph"),
    ),
    Row(
        "two sections whose coordinates overlap, with `sample_key`",
        overlapping_with_key,
        Gives("a separate graph for each section"),
    ),
    Row(
        "a grid in one of two sections only",
        mixed,
        Warns("No grid was found in 1 of the 2 sections.*graph='grid' or graph='knn'", "rings and nearest spots"),
    ),
    Row("the same with `graph='knn'`", of_one_kind, Gives("the 14 nearest spots in both")),
    Row(
        "`graph='grid'` for cells",
        lambda w: cells_beside_a_grid(w, graph="grid"),
        Raises(ValueError, "graph='grid', but the spots of section 'B' are on neither.*graph='knn'"),
    ),
    Row(
        "`graph='rings'`",
        lambda w: setup(w.section(), graph="rings"),
        Raises(ValueError, "graph='rings' is not known; it is one of 'auto', 'grid', 'knn'"),
    ),
    Row(
        "spots with `in_tissue == 0`",
        outside_tissue,
        Warns("5 of 64 spots are outside the tissue.*To leave them out", "they are used"),
    ),
    Row(
        "neither graph nor coordinates",
        lambda w: without_graph(w, without_coordinates),
        Raises(KeyError, "neither a neighbour graph nor coordinates.*spatial_key"),
    ),
    Row(
        "four spots, no graph",
        few,
        Raises(ValueError, "has 4 spot.*a neighbourhood on this layout .* needs at least"),
    ),
    Row(
        "the graph emptied after setup",
        lambda w: after_setup(w, emptied),
        Raises(ValueError, "has no edges between different spots"),
    ),
    Row(
        "the graph deleted after setup",
        lambda w: after_setup(w, deleted),
        Raises(KeyError, "obsp has no 'spatial_connectivities', which was there at setup.*setup_anndata"),
    ),
]
