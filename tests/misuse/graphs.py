"""Rows about neighbour graphs."""

import anndata as ad
import numpy as np
import scipy.sparse as sp
from misuse.table import SAME, Gives, Raises, Row

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
        Raises(ValueError, "one finite coordinate pair for each spot.*1 values that are NaN"),
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
