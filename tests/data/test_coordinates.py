"""Coordinates in obsm: two columns, or three of a stack; array positions of a hexagonal grid get one unit."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sagefm

GRAPH = "spatial_connectivities"


def graph_of(adata: ad.AnnData, **kwargs: object) -> sp.csr_matrix:
    adata = adata.copy()
    sagefm.SAGEFM.setup_anndata(adata, **kwargs)
    return adata.obsp[GRAPH]


def same(one: sp.csr_matrix, other: sp.csr_matrix) -> bool:
    return one.shape == other.shape and (one != other).nnz == 0


def with_coordinates(adata: ad.AnnData, stored: object) -> ad.AnnData:
    adata = adata.copy()
    adata.obsm["spatial"] = stored
    return adata


def table(adata: ad.AnnData, **more: object) -> pd.DataFrame:
    x, y = adata.obsm["spatial"].T
    return pd.DataFrame({"x": x, "y": y, **more}, index=adata.obs_names)


# Columns.


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_sparse_coordinates_are_read(adata, kind):
    assert same(graph_of(with_coordinates(adata, kind(adata.obsm["spatial"]))), graph_of(adata))


@pytest.mark.parametrize("third", [0.0, 1.0, "in_tissue", "rank"])
def test_a_third_column_is_refused_and_the_remedies_work(adata, third):
    values = {"in_tissue": np.arange(adata.n_obs) % 2, "rank": np.arange(adata.n_obs)}.get(third, third)
    wrong = with_coordinates(adata, np.c_[adata.obsm["spatial"], np.full(adata.n_obs, values)])
    message = f"obsm['spatial'] must have two columns, x and y; found shape ({adata.n_obs}, 3). Keep the two that"
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        graph_of(wrong)
    keep, stack = re.findall("`(adata.*?)`", str(refused.value))
    names = {"adata": wrong.copy(), "pandas": pd, "numpy": np}
    exec(keep, names)
    assert same(graph_of(names["adata"]), graph_of(adata))
    names = {"adata": wrong.copy(), "pandas": pd, "numpy": np}
    exec(stack, names)
    graph_of(names["adata"])


def test_a_stack_is_used_if_its_columns_say_so(adata, caplog):
    depth = np.repeat([0.0, 1e6], adata.n_obs // 2)
    with caplog.at_level("INFO", "sagefm"):
        graph = graph_of(with_coordinates(adata, table(adata, z=depth)), graph="knn")
    edges = graph.tocoo()
    assert (depth[edges.row] == depth[edges.col]).all()
    assert "three coordinates, as for a stack" in caplog.text


def test_a_frame_with_other_columns_is_refused_and_the_remedy_works(adata):
    x, y = adata.obsm["spatial"].T
    frame = pd.DataFrame(
        {"in_tissue": 1, "array_row": 0, "array_col": 0, "pxl_row_in_fullres": y, "pxl_col_in_fullres": x},
        index=adata.obs_names,
    )
    wrong = with_coordinates(adata, frame)
    with pytest.raises(ValueError, match="found the columns .*'in_tissue', 'array_row'") as refused:
        graph_of(wrong)
    (keep,) = re.findall("`(adata.*?)`", str(refused.value))
    exec(keep, {"adata": wrong})
    assert same(graph_of(wrong), graph_of(adata))


@pytest.mark.parametrize("columns", [["in_tissue", "x"], ["x"], []])
def test_a_frame_without_a_pair_of_coordinates_is_refused(adata, columns):
    with pytest.raises(ValueError, match="must have two columns, x and y; found"):
        graph_of(with_coordinates(adata, table(adata, in_tissue=1)[columns]))


def test_text_is_refused(adata):
    with pytest.raises(ValueError, match="must hold numbers, x and y of each spot: could not convert"):
        graph_of(with_coordinates(adata, table(adata).assign(y="left")))


@pytest.mark.parametrize("stored", [np.asarray, lambda table: table])
def test_missing_coordinates_are_named_and_the_remedy_works(adata, stored):
    frame = table(adata)
    frame.iloc[[7, 9], 1] = np.nan
    wrong = with_coordinates(adata, stored(frame))
    with pytest.raises(ValueError, match=f"in 2 spot.*for example '{adata.obs_names[7]}'") as refused:
        graph_of(wrong)
    names = {"adata": wrong, "numpy": np}
    exec(re.findall("`(adata.*?)`", str(refused.value))[0], names)
    assert names["adata"].n_obs == adata.n_obs - 2
    graph_of(names["adata"])


# Array positions.


def positions(adata: ad.AnnData, names: list[str]) -> np.ndarray:
    return adata.obs[names].to_numpy()


@pytest.mark.parametrize("dtype", [int, float])
@pytest.mark.parametrize("missing", [0, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("names", [["array_row", "array_col"], ["array_col", "array_row"]])
def test_array_positions_give_the_graph_of_the_pixels(adata, names, missing, dtype, recwarn):
    adata = adata[np.random.default_rng(0).random(adata.n_obs) >= missing].copy()
    in_array = with_coordinates(adata, positions(adata, names).astype(dtype))
    assert same(graph_of(in_array), graph_of(adata))
    assert not [w for w in recwarn if "array" in str(w.message)]


def test_array_positions_in_a_frame_are_read_by_their_names(adata):
    frame = with_coordinates(adata, adata.obs[["array_col", "array_row"]].copy())
    del frame.obs["array_row"]
    assert same(graph_of(frame), graph_of(adata))


def test_array_positions_whose_row_is_not_known_get_the_nearest_spots_and_a_warning(adata):
    unknown = with_coordinates(adata, positions(adata, ["array_row", "array_col"]))
    del unknown.obs["array_row"]
    with pytest.warns(UserWarning, match="look like rows and columns of a Visium array.*which of them is the row"):
        graph = graph_of(unknown)
    assert set(np.diff(graph.indptr)) == {14}
    with pytest.raises(ValueError, match="graph='grid', but"), pytest.warns(UserWarning, match="look like rows"):
        graph_of(unknown, graph="grid")


@pytest.mark.parametrize("name", ["dlpfc_maynard2021__151673", "tnbc_bassiouni2023__120E"])
def test_array_positions_of_real_sections_give_the_graph_of_the_pixels(real_section, name):
    adata = real_section(name)[:, :50]
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    assert same(graph_of(with_coordinates(adata, positions(adata, ["array_row", "array_col"]))), graph_of(adata))
