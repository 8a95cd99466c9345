"""The neighbour graph: layouts are detected, graphs built as squidpy does, checked, and kept in obsp."""

import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq
from scipy.sparse.csgraph import connected_components

import sagefm
from sagefm.data import check_graph, neighbor_mean_operator
from sagefm.data._graph import compact_blocks, detect_lattice, spots_adjacent_to

KEY = "spatial_connectivities"


def setup(adata: ad.AnnData, **kwargs: object) -> sp.csr_matrix:
    sagefm.SAGEFM.setup_anndata(adata, **kwargs)
    return adata.obsp[KEY]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# Layouts, with a distance of 1 between neighbours.


def hexagonal(n_rows: int, n_cols: int) -> np.ndarray:
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    return np.c_[col + row % 2 / 2, row * np.sqrt(3) / 2]


def square(n_rows: int, n_cols: int) -> np.ndarray:
    return np.indices((n_rows, n_cols)).reshape(2, -1).T.astype(float)


def irregular(n_spots: int) -> np.ndarray:
    return np.random.default_rng(0).random((n_spots, 2))


LAYOUTS = {"hexagonal grid": hexagonal(20, 20), "square grid": square(20, 20), "irregular": irregular(400)}


def section(coordinates: np.ndarray, **obs: object) -> ad.AnnData:
    counts = np.random.default_rng(1).poisson(3, (len(coordinates), 5)).astype(np.float32) + 1
    adata = ad.AnnData(sp.csr_matrix(counts), obsm={"spatial": coordinates})
    return adata if not obs else ad.AnnData(adata.X, obs=obs, obsm={"spatial": coordinates})


def two_sections(interleaved: bool = False) -> ad.AnnData:
    """A hexagonal section `a` and a square section `b` on the same coordinates."""
    coordinates = np.concatenate([hexagonal(12, 12), square(12, 12)])
    adata = section(coordinates, sample=np.repeat(["a", "b"], 144))
    return adata[np.random.default_rng(2).permutation(288)].copy() if interleaved else adata


def interior(coordinates: np.ndarray, margin: float) -> np.ndarray:
    low, high = coordinates.min(axis=0) + margin, coordinates.max(axis=0) - margin
    return ((coordinates >= low) & (coordinates <= high)).all(axis=1)


def degrees(graph: sp.csr_matrix) -> np.ndarray:
    return np.diff(sp.csr_matrix(graph).indptr)


def same(graph: sp.csr_matrix, other: sp.csr_matrix) -> bool:
    return graph.shape == other.shape and (graph != other).nnz == 0


# Detection of the layout.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("degrees_rotated", [0, 11, 30, 45, 77])
def test_a_layout_is_detected_at_any_rotation(layout, degrees_rotated):
    angle = np.deg2rad(degrees_rotated)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert detect_lattice(LAYOUTS[layout] @ rotation) == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_detected_at_any_scale_and_offset(layout):
    assert detect_lattice(LAYOUTS[layout] * 1e-4 + 7) == layout
    assert detect_lattice(LAYOUTS[layout] * 1e4 - 7e5) == layout


@pytest.mark.parametrize(
    ("layout", "deviation"), [("hexagonal grid", 0.05), ("hexagonal grid", 0.09), ("square grid", 0.05)]
)
@pytest.mark.parametrize("seed", range(5))
def test_a_lattice_is_detected_despite_jitter(layout, deviation, seed):
    jitter = np.random.default_rng(seed).normal(0, deviation, (400, 2))
    assert detect_lattice(LAYOUTS[layout] + jitter) == layout


@pytest.mark.parametrize("layout", ["hexagonal grid", "square grid"])
def test_a_lattice_is_detected_despite_missing_spots(layout):
    kept = np.random.default_rng(3).random(400) < 0.85
    assert detect_lattice(LAYOUTS[layout][kept]) == layout


@pytest.mark.parametrize("layout", [hexagonal, square])
def test_a_small_lattice_is_detected_although_most_spots_are_at_its_border(layout):
    assert detect_lattice(layout(6, 6)) == {hexagonal: "hexagonal grid", square: "square grid"}[layout]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("dlpfc_maynard2021__151673", "hexagonal grid"),
        ("prostate_10x_giottomini__NP", "hexagonal grid"),
        ("her2st_andersson2021__A1", "square grid"),
        ("mouse_mob_stahl2016__rep12", "square grid"),
    ],
)
def test_real_layouts_are_detected(real_section, name, layout):
    assert detect_lattice(real_section(name).obsm["spatial"]) == layout


# Graphs that are built.


@pytest.mark.parametrize(("layout", "n_neighbors"), [("hexagonal grid", 18), ("square grid", 12)])
def test_two_whole_rings_surround_a_spot_inside_a_lattice(layout, n_neighbors):
    coordinates = LAYOUTS[layout]
    inside = interior(coordinates, margin=2.01)
    assert inside.sum() > 100
    assert set(degrees(setup(section(coordinates)))[inside]) == {n_neighbors}


def test_an_irregular_layout_gets_the_14_nearest_spots():
    coordinates = LAYOUTS["irregular"]
    graph = setup(section(coordinates))
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    nearest = np.sort(np.argsort(distances, axis=1)[:, 1:15], axis=1)
    assert np.array_equal(np.sort(graph.indices.reshape(400, 14), axis=1), nearest)


@pytest.mark.parametrize("missing", [0, 0.2, 0.35, 0.4, 0.45, 0.5])
@pytest.mark.parametrize("deviation", [0, 0.02])
@pytest.mark.parametrize(("layout", "between_rings"), [("hexagonal grid", 1.35), ("square grid", 1.2)])
def test_two_rings_of_a_lattice_with_missing_spots_do_not_cross_gaps(layout, between_rings, deviation, missing):
    rng = np.random.default_rng(0)
    places = LAYOUTS[layout][rng.random(400) >= missing]
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    near = (distances < between_rings).astype(int)
    within_two_steps = (near @ near > 0) & (distances > 0)
    adata = section(places + rng.normal(0, deviation, places.shape))
    assert np.array_equal(setup(adata).toarray() > 0, within_two_steps)
    steps = adata.obsp["spatial_distances"].toarray()
    assert np.array_equal(steps, within_two_steps * np.where(near, 1, 2))


# The kind of graph, and sections of one array type.


def deformed(seed: int = 25) -> np.ndarray:
    """A square grid whose rows and columns are shifted so much that, alone, it counts as irregular."""
    shift = np.random.default_rng(seed).normal(0, 0.11, (2, 14))
    row, column = square(14, 14).astype(int).T
    return np.c_[row + shift[0, row], column + shift[1, column]]


def three_sections(third: np.ndarray) -> ad.AnnData:
    parts = [square(14, 14), deformed(), third]
    return section(np.concatenate(parts), sample=np.repeat(list("abc"), [len(part) for part in parts]))


def test_the_nearest_14_are_joined_on_a_lattice_as_well_if_requested():
    assert set(degrees(setup(section(LAYOUTS["hexagonal grid"]), graph="knn"))) == {14}


def test_a_deformed_grid_has_rings_if_requested():
    assert set(degrees(setup(section(deformed())))) == {14}
    found, whole = setup(section(deformed()), graph="grid"), setup(section(square(14, 14)))
    assert found.multiply(whole).nnz > 0.8 * max(found.nnz, whole.nnz)


def test_an_irregular_layout_has_no_rings():
    message = "graph='grid', but the spots of section 'all' are on neither a hexagonal nor a square grid. Pass "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        setup(section(LAYOUTS["irregular"]), graph="grid")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"graph='rings' is not known; it is one of 'auto', 'grid', 'knn'\."):
        setup(section(LAYOUTS["irregular"]), graph="rings")


def test_a_deformed_grid_gets_the_graph_of_the_other_sections(recwarn, caplog):
    with caplog.at_level(logging.INFO, "sagefm"):
        setup(three_sections(deformed(39)), sample_key="sample")
    assert "square grid, 2 rings (3 sections);" in caplog.text
    assert not [warning for warning in recwarn if "grid" in str(warning.message)]


@pytest.mark.parametrize(
    "third", [irregular(100), hexagonal(12, 12) + np.random.default_rng(0).normal(0, 0.16, (144, 2))]
)
def test_a_section_without_a_grid_among_others_with_one_warns(third):
    adata = three_sections(third)
    message = "No grid was found in 1 of the 3 sections (for example 'c'), so their spots are joined to the 14 nearest"
    with pytest.warns(UserWarning, match=re.escape(message)):
        setup(adata, sample_key="sample")
    del adata.obsp[KEY]
    assert set(degrees(setup(adata, sample_key="sample", graph="knn"))) == {14}


def test_sections_of_one_real_array_type_get_one_kind_of_graph(real_section, recwarn, caplog):
    names = ["heart_asp2019__4_CN73_C2_HE", "heart_asp2019__5_CN74_E1_HE", "heart_asp2019__6_CN74_E2_HE"]
    hearts = ad.concat([real_section(name) for name in names], index_unique="-")
    with caplog.at_level(logging.INFO, "sagefm"):
        setup(hearts, sample_key="sample_id")
    assert "square grid, 2 rings (3 sections);" in caplog.text
    assert not [warning for warning in recwarn if "grid" in str(warning.message)]


def test_the_kind_of_graph_is_kept_by_a_model_and_its_file(adata, tmp_path):
    setup(adata, graph="knn")
    model = sagefm.SAGEFM(adata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    model.save(tmp_path / "model")
    for get in (lambda new: model, lambda new: sagefm.SAGEFM.load(tmp_path / "model", new)):
        new = adata.copy()
        del new.obsp, new.uns
        get(new).get_latent_representation(new)
        assert set(degrees(new.obsp[KEY])) == {14}


def test_the_kind_of_graph_is_used_with_shared_weights(trained_model, adata, tmp_path):
    trained_model.save_pretrained(tmp_path / "weights")
    without = adata.copy()
    sagefm.SAGEFM.from_pretrained(tmp_path / "weights", adata, graph="knn")
    later = sagefm.SAGEFM.from_pretrained(tmp_path / "weights", graph="knn")
    later.get_latent_representation(without)
    assert set(degrees(adata.obsp[KEY])) == set(degrees(without.obsp[KEY])) == {14}


def test_a_graph_in_place_is_used_and_the_log_says_so(caplog):
    adata = section(LAYOUTS["hexagonal grid"])
    setup(adata)
    with caplog.at_level(logging.INFO, "sagefm"):
        assert degrees(setup(adata, graph="knn")).max() == 18
    assert f"obsp[{KEY!r}] exists and is used as it is; delete it to build one with graph='knn'." in caplog.text


def test_two_rings_are_all_spots_within_two_steps():
    coordinates = LAYOUTS["hexagonal grid"]
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    assert np.array_equal(setup(section(coordinates)).toarray() > 0, (distances > 0) & (distances < 2.01))


@pytest.mark.parametrize("deviation", [0, 0.05, 0.09])
@pytest.mark.parametrize(("layout", "n_neighs"), [("hexagonal grid", 6), ("square grid", 4)])
def test_a_graph_on_a_lattice_equals_that_of_squidpy(layout, n_neighs, deviation):
    coordinates = LAYOUTS[layout] + np.random.default_rng(0).normal(0, deviation, (400, 2))
    ours, theirs = section(coordinates), section(coordinates)
    setup(ours)
    sq.gr.spatial_neighbors_grid(theirs, n_neighs=n_neighs, n_rings=2)
    for key in (KEY, "spatial_distances"):
        assert same(ours.obsp[key], theirs.obsp[key])


def test_a_graph_on_an_irregular_layout_equals_that_of_squidpy():
    ours, theirs = section(LAYOUTS["irregular"]), section(LAYOUTS["irregular"])
    setup(ours)
    sq.gr.spatial_neighbors_knn(theirs, n_neighs=14)
    for key in (KEY, "spatial_distances"):
        assert same(ours.obsp[key], theirs.obsp[key])


def test_sections_are_built_separately_as_squidpy_builds_libraries():
    coordinates = np.concatenate([hexagonal(12, 12), hexagonal(10, 14) + 0.1])
    samples = np.repeat(["a", "b"], [144, 140])
    shuffled = np.random.default_rng(4).permutation(len(samples))
    ours, theirs = (section(coordinates[shuffled], sample=samples[shuffled]) for _ in range(2))
    setup(ours, sample_key="sample")
    theirs.obs["sample"] = theirs.obs["sample"].astype("category")
    sq.gr.spatial_neighbors_grid(theirs, library_key="sample", n_rings=2)
    for key in (KEY, "spatial_distances"):
        assert same(ours.obsp[key], theirs.obsp[key])


def test_each_section_gets_the_graph_of_its_own_layout():
    adata = two_sections()
    graph = setup(adata, sample_key="sample")
    assert degrees(graph)[:144].max() == 18
    assert degrees(graph)[144:].max() == 12
    assert graph[:144, 144:].nnz == graph[144:, :144].nnz == 0


def test_interleaved_sections_get_the_same_graph_as_contiguous_ones():
    adata, interleaved = two_sections(), two_sections(interleaved=True)
    graph = setup(adata, sample_key="sample")
    rows = adata.obs_names.get_indexer(interleaved.obs_names)
    assert not np.array_equal(rows, np.arange(288))
    assert same(setup(interleaved, sample_key="sample"), graph[rows][:, rows])


def test_the_graph_is_written_under_neighbors_key():
    adata = section(hexagonal(8, 8))
    sagefm.SAGEFM.setup_anndata(adata, neighbors_key="rings")
    assert set(adata.obsp) == {"rings_connectivities", "rings_distances"}


@pytest.mark.parametrize("dtype", ["float32", "int64", "object"])
@pytest.mark.parametrize("stored", [np.asarray, pd.DataFrame], ids=["array", "frame"])
def test_the_type_of_the_coordinates_does_not_matter(stored, dtype):
    adata, other = section(square(8, 8)), section(square(8, 8))
    coordinates = stored(adata.obsm["spatial"].astype(dtype))
    other.obsm["spatial"] = coordinates if stored is np.asarray else coordinates.set_index(other.obs_names)
    assert same(setup(other), setup(adata))


@pytest.mark.parametrize(
    ("layout", "coordinates"),
    [
        ("hexagonal grid", hexagonal(3, 3)[[0, 1, 3, 4, 5, 6, 7]]),
        ("square grid", np.r_[square(3, 3)[1::2], [[1, 1]]]),
        ("irregular", irregular(15)),
    ],
)
def test_a_section_as_small_as_one_neighbourhood_is_enough(layout, coordinates, monkeypatch):
    monkeypatch.setattr("sagefm.data._graph.detect_lattice", lambda _: layout)  # too few spots to detect it
    assert set(degrees(setup(section(coordinates)))) == {len(coordinates) - 1}


def test_coordinates_are_read_from_spatial_key():
    adata = section(square(8, 8))
    adata.obsm["pixels"] = hexagonal(8, 8)
    assert degrees(setup(adata, spatial_key="pixels")).max() == 18


# Log lines.


def log_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sagefm"]


def test_one_log_line_describes_the_graph(caplog):
    with caplog.at_level(logging.INFO, "sagefm"):
        graph = setup(section(hexagonal(8, 8)))
    assert log_of(caplog) == [
        "Built the neighbour graph obsp['spatial_connectivities']: hexagonal grid, 2 rings (1 section); "
        f"{graph.nnz / 64:.1f} neighbours per spot."
    ]


def test_the_log_line_names_every_layout(caplog):
    coordinates = np.concatenate([hexagonal(8, 8), square(8, 8), square(9, 9), irregular(20)])
    adata = section(coordinates, sample=np.repeat(list("abcd"), [64, 64, 81, 20]))
    with caplog.at_level(logging.INFO, "sagefm"):
        setup(adata, sample_key="sample")
    (line,) = log_of(caplog)
    assert (
        "hexagonal grid, 2 rings (1 section); square grid, 2 rings (2 sections); "
        "irregular layout, 14 nearest spots (1 section);"
    ) in line


def test_isolated_spots_are_kept_and_counted_in_the_log(caplog):
    adata = section(np.concatenate([hexagonal(8, 8), [[50.0, 50.0], [90.0, 90.0]]]))
    with caplog.at_level(logging.INFO, "sagefm"):
        graph = setup(adata)
    assert adata.n_obs == 66
    assert degrees(graph)[-2:].tolist() == [0, 0]
    assert log_of(caplog)[1:] == ["2 of 66 spots have no neighbours; each is kept as its own neighbourhood."]


# An existing graph is used as it is.


def ring_of(n_spots: int) -> sp.csr_matrix:
    """The neighbour of each spot is the next one: a directed graph."""
    return sp.csr_matrix((np.ones(n_spots), (np.arange(n_spots), np.roll(np.arange(n_spots), -1))))


def test_an_existing_graph_is_used_and_left_unchanged(spots_of):
    adata = section(hexagonal(8, 8))
    adata.obsp[KEY] = ring_of(64)
    graph = adata.obsp[KEY]
    setup(adata)
    assert adata.obsp[KEY] is graph
    assert set(adata.obsp) == {KEY}
    assert same(graph, ring_of(64))
    assert same(spots_of(adata).graph, ring_of(64))


def test_an_existing_graph_needs_no_coordinates():
    adata = section(hexagonal(8, 8))
    del adata.obsm["spatial"]
    adata.obsp[KEY] = ring_of(64)
    setup(adata)


@pytest.mark.parametrize(
    "stored", [sp.csc_matrix, sp.csr_array, sp.csr_matrix.toarray, lambda x: x.astype(bool), lambda x: x.astype(int)]
)
def test_the_type_of_the_stored_graph_does_not_matter(stored):
    graph = check_graph(stored(ring_of(9)), None, KEY)
    assert same(graph, ring_of(9)) and graph.dtype == np.float32


def test_a_stored_zero_is_not_an_edge_and_stays_stored(spots_of):
    adata = section(hexagonal(8, 8))
    sq.gr.spatial_neighbors_grid(adata, n_rings=2)
    adata.obsp[KEY].data[adata.obsp[KEY].indices == 5] = 0
    stored = adata.obsp[KEY].nnz
    setup(adata)
    assert adata.obsp[KEY].nnz == stored
    assert 5 not in spots_of(adata).graph.indices


def test_self_loops_are_ignored(spots_of):
    adata, without = section(hexagonal(8, 8)), section(hexagonal(8, 8))
    sq.gr.spatial_neighbors_grid(adata, n_rings=2, set_diag=True)
    assert (adata.obsp[KEY].diagonal() == 1).all()
    sq.gr.spatial_neighbors_grid(without, n_rings=2)
    setup(adata)
    assert (adata.obsp[KEY].diagonal() == 1).all()
    assert same(spots_of(adata).graph, without.obsp[KEY])


def test_row_i_of_a_directed_graph_holds_the_neighbours_of_spot_i(spots_of):
    adata = section(LAYOUTS["irregular"])
    sq.gr.spatial_neighbors_knn(adata, n_neighs=4)
    assert not same(adata.obsp[KEY], adata.obsp[KEY].T.tocsr())
    setup(adata)
    distances = np.linalg.norm(adata.obsm["spatial"] - adata.obsm["spatial"][7], axis=1)
    spots = spots_of(adata)
    assert set(spots.graph[[7]].indices) == set(np.argsort(distances)[1:5])
    assert np.allclose(spots.neighborhood_means(np.array([7])), spots.log(np.argsort(distances)[1:5]).mean(0))


def test_a_mean_over_neighbours_is_unweighted_and_zero_for_an_isolated_spot():
    graph = sp.csr_matrix(np.array([[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=np.float32))
    means = neighbor_mean_operator(graph) @ np.array([[1.0], [2.0], [4.0], [9.0]])
    assert np.allclose(means.ravel(), [5, 1, 0, 3])


# Invalid graphs are rejected.


def assert_rejected(graph: sp.csr_matrix, message: str) -> None:
    adata = section(hexagonal(8, 8))
    adata.obsp[KEY] = graph
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


@pytest.mark.parametrize(("weight", "named"), [(0.5, "0.5"), (2, "2"), (-1, "-1"), (np.nan, "nan"), (np.inf, "inf")])
def test_weights_are_rejected(weight, named):
    graph = ring_of(64)
    graph.data[[3, 9]] = weight, 0.3
    assert_rejected(
        graph,
        "The neighbour graph obsp['spatial_connectivities'] has 2 edges with a weight other than 1 (for example "
        f"{named}); SAGEFM averages over neighbours without weights. Keep the edges and drop the weights with "
        "`adata.obsp['spatial_connectivities'] = (adata.obsp['spatial_connectivities'] > 0).astype('float32')`.",
    )


def test_the_remedy_for_weights_works():
    adata = section(LAYOUTS["irregular"])
    sq.gr.spatial_neighbors_knn(adata, n_neighs=6)
    adata.obsp["spatial_connectivities"] = adata.obsp["spatial_distances"]
    with pytest.raises(ValueError, match="weight other than 1"):
        setup(adata)
    adata.obsp["spatial_connectivities"] = (adata.obsp["spatial_connectivities"] > 0).astype("float32")
    setup(adata)


@pytest.mark.parametrize("graph", [sp.csr_matrix((64, 64)), sp.eye(64, format="csr"), ring_of(64) * 0])
def test_a_graph_without_edges_between_spots_is_rejected(graph):
    assert_rejected(
        graph,
        "The neighbour graph obsp['spatial_connectivities'] has no edges between different spots. "
        "Build it with squidpy, for example `squidpy.gr.spatial_neighbors_grid(adata, n_rings=2)`.",
    )


def test_edges_between_sections_are_rejected():
    adata = section(hexagonal(8, 8), sample=np.repeat(["a", "b"], 32))
    adata.obsp[KEY] = ring_of(64)
    message = (
        "2 edges of the neighbour graph obsp['spatial_connectivities'] join spots of different sections (for example "
        "'a' and 'b'). Build the graph for each section separately: pass `library_key` to squidpy, or delete the graph "
        "and let `setup_anndata` build it."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata, sample_key="sample")


def test_an_anndata_without_graph_and_coordinates_is_rejected_and_its_keys_listed():
    adata = section(hexagonal(8, 8))
    adata.obsm["pixels"] = adata.obsm.pop("spatial")
    message = (
        "There is neither a neighbour graph nor coordinates to build one from: obsm has no 'spatial'; found "
        "['pixels']. Put the spots' coordinates there, or pass their key as `spatial_key`."
    )
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_rejected(wrong):
    coordinates = hexagonal(8, 8)
    coordinates[[3, 9], 1] = wrong
    message = (
        "obsm['spatial'] must hold one finite coordinate pair for each spot; found shape (64, 2) with 2 values that "
        "are NaN or infinite, in 2 spot(s), for example '3'. Fill them in, or leave these spots out: `adata = "
        "adata[numpy.isfinite(adata.obsm['spatial']).all(axis=1)].copy()`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(section(coordinates))


def test_duplicated_coordinates_are_rejected_with_a_hint_at_sample_key():
    coordinates = np.concatenate([hexagonal(8, 8), hexagonal(8, 8)])
    message = (
        "64 of the 128 spots of section 'all' have the same coordinates as another spot. If these are several "
        "sections, pass the obs column that distinguishes them as `sample_key`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(section(coordinates))
    setup(section(coordinates, sample=np.repeat(["a", "b"], 64)), sample_key="sample")


def test_sections_laid_over_each_other_warn_with_a_hint_at_sample_key(recwarn):
    coordinates = 100 * np.concatenate([hexagonal(16, 16), 1.37 * hexagonal(6, 6) + 0.31])
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    share = (np.sort(distances)[:, 1] < 70).mean()
    message = (
        f"{share:.0%} of the spots of section 'all' are closer to another spot than the spacing of their grid. If "
        "these are several sections, their neighbours are mixed: pass the obs column that distinguishes them as "
        "`sample_key`."
    )
    setup(section(coordinates, sample=np.repeat(["a", "b"], [256, 36])), sample_key="sample")
    assert not [warning for warning in recwarn if "sample_key" in str(warning.message)]
    with pytest.warns(UserWarning, match=exactly(message)):
        setup(section(coordinates))


def test_spots_on_an_irregular_layout_may_be_close_without_a_warning(recwarn):
    setup(section(LAYOUTS["irregular"]))
    assert not [warning for warning in recwarn if "sample_key" in str(warning.message)]


def test_duplicated_coordinates_are_rejected_with_their_section():
    coordinates = np.concatenate([hexagonal(8, 8), square(6, 6), [[0.0, 0.0]]])
    message = "1 of the 37 spots of section 'b' have the same coordinates as another spot. If these are several"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        setup(section(coordinates, sample=np.repeat(["a", "b"], [64, 37])), sample_key="sample")


def test_a_section_of_one_spot_is_rejected():
    message = (
        "Section 'b' has 1 spot(s), but a neighbourhood on this layout (hexagonal grid) needs at least 7. Leave the "
        "section out, or provide your own graph in obsp."
    )
    adata = section(np.concatenate([hexagonal(8, 8), [[0.0, 0.0]]]), sample=["a"] * 64 + ["b"])
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata, sample_key="sample")


def test_a_section_smaller_than_a_neighbourhood_is_rejected():
    message = (
        "Section 'b' has 14 spot(s), but a neighbourhood on this layout (irregular) needs at least 15. Leave the "
        "section out, or provide your own graph in obsp."
    )
    adata = section(np.concatenate([hexagonal(8, 8), irregular(14)]), sample=["a"] * 64 + ["b"] * 14)
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata, sample_key="sample")


@pytest.mark.parametrize("coordinates", [np.zeros((1, 2)), np.zeros((9, 2))])
def test_messages_show_no_numpy_types(coordinates):
    with pytest.raises(ValueError) as refusal:
        setup(section(coordinates))
    assert "np.int64" not in str(refusal.value)


@pytest.mark.parametrize("n_spots", [2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 21, 28, 35])
def test_a_small_section_gets_a_graph_or_is_rejected_by_name(n_spots):
    adata = section(hexagonal(7, 7)[:n_spots], sample=["a"] * n_spots)
    try:
        graph = setup(adata, sample_key="sample")
    except ValueError as refusal:
        assert str(refusal).startswith(f"Section 'a' has {n_spots} spot(s), but a neighbourhood ")
    else:
        assert degrees(graph).min() > 0


# The graph is in obsp, so AnnData keeps it in step with the spots.


def test_a_subset_keeps_the_edges_among_its_spots(adata, spots_of):
    setup(adata)
    whole = spots_of(adata).graph
    rows = np.flatnonzero(adata.obsm["spatial"][:, 0] < np.median(adata.obsm["spatial"][:, 0]))
    subset = adata[rows].copy()
    setup(subset)
    assert same(spots_of(subset).graph, whole[rows][:, rows])


def test_reordering_reorders_the_neighbourhoods(adata, spots_of):
    setup(adata)
    rows = np.random.default_rng(5).permutation(adata.n_obs)
    expected = spots_of(adata).neighborhood_means(rows)
    reordered = adata[rows].copy()
    setup(reordered)
    means = spots_of(reordered).neighborhood_means(np.arange(adata.n_obs))
    assert np.allclose(means, expected, atol=1e-6)


def test_pairwise_concatenation_keeps_every_neighbourhood(adata, spots_of):
    first = setup(adata)
    half = adata[: adata.n_obs // 2].copy()
    both = ad.concat({"x": adata, "y": half}, label="sample", index_unique="-", pairwise=True)
    setup(both, sample_key="sample")
    assert same(spots_of(both).graph, sp.block_diag([first, half.obsp[KEY]], format="csr"))


def test_plain_concatenation_loses_the_graph_and_gets_it_back_by_section(adata):
    graph = setup(adata).copy()
    both = ad.concat({"x": adata, "y": adata}, label="sample", index_unique="-")
    assert KEY not in both.obsp
    assert same(setup(both, sample_key="sample"), sp.block_diag([graph, graph], format="csr"))


# Blocks of tissue, and the spots next to them.


@pytest.mark.parametrize("seed", range(5))
def test_one_block_is_connected(seed):
    graph = setup(section(LAYOUTS["hexagonal grid"]))
    block = compact_blocks(graph, 40, n_blocks=1, rng=np.random.default_rng(seed))
    assert len(block) == 40
    assert connected_components(graph[block][:, block])[0] == 1


@pytest.mark.parametrize("seed", range(5))
def test_blocks_have_far_fewer_adjacent_spots_than_scattered_spots(seed):
    graph, rng = setup(section(LAYOUTS["hexagonal grid"])), np.random.default_rng(seed)
    block, scattered = compact_blocks(graph, 40, n_blocks=3, rng=rng), rng.choice(400, 40, replace=False)
    outside = [np.setdiff1d(spots_adjacent_to(graph, spots), spots) for spots in (block, scattered)]
    assert len(outside[0]) < len(outside[1]) / 2


@pytest.mark.parametrize("n_spots", [0, 1, 2, 39, 40, 64])
def test_blocks_hold_the_requested_number_of_spots_without_duplicates(n_spots):
    graph = setup(section(np.concatenate([hexagonal(6, 10), 50.0 + 9 * np.arange(8).reshape(4, 2)])))
    assert (degrees(graph) == 0).sum() == 4
    for seed in range(5):
        blocks = compact_blocks(graph, n_spots, n_blocks=3, rng=np.random.default_rng(seed))
        assert len(set(blocks)) == len(blocks) == n_spots


def test_blocks_depend_on_the_seed_alone():
    graph = setup(section(LAYOUTS["square grid"]))
    first, again, other = (compact_blocks(graph, 40, n_blocks=3, rng=np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_adjacent_spots_are_the_rows_and_not_the_columns_of_a_directed_graph():
    assert spots_adjacent_to(ring_of(9), np.array([4, 5])).tolist() == [3, 4]


def test_no_spot_is_adjacent_to_none():
    assert spots_adjacent_to(ring_of(9), np.array([], dtype=int)).tolist() == []
