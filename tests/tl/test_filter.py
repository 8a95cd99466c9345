import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq

import sagefm
from sagefm.tl._rings import rings_of_neighbors

SIDE = 24


@pytest.fixture
def waves() -> ad.AnnData:
    """A square grid with four axes: a broad wave, a narrow one, both with noise, noise alone, and a constant."""
    row, col = (index.ravel() for index in np.mgrid[:SIDE, :SIDE])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(SIDE**2, 3))
    broad, narrow = np.sin(2 * np.pi * row / SIDE), np.sin(2 * np.pi * col / 6)
    values = np.column_stack([broad + noise[:, 0], 2 * narrow + noise[:, 1], noise[:, 2], np.full(SIDE**2, 3.0)])
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"spot_{n}" for n in range(SIDE**2)]))
    adata.obsm["spatial"] = np.column_stack([col, row]).astype(float)
    adata.obsm["X"], adata.obsm["truth"] = values, np.column_stack([broad, 2 * narrow])
    sq.gr.spatial_neighbors_grid(adata, n_rings=2, n_neighs=4)
    return adata


def error(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(((estimate - estimate.mean() - truth) ** 2).mean())


def test_each_axis_is_averaged_as_widely_as_it_varies(waves):
    """The filter is better than one and two rounds of averaging on the broad and on the narrow wave alike."""
    sagefm.tl.spatial_filter(waves, use_rep="X")
    graph = waves.obsp["spatial_connectivities"] + sp.eye_array(waves.n_obs)
    mean = sp.diags_array(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph
    for axis in (0, 1):
        values, truth = waves.obsm["X"][:, axis], waves.obsm["truth"][:, axis]
        filtered = error(waves.obsm["X_filtered"][:, axis], truth)
        assert filtered < 0.5 * error(values, truth)
        assert filtered < 1.1 * error(mean @ values, truth)
    narrow, truth = waves.obsm["X"][:, 1], waves.obsm["truth"][:, 1]
    assert error(waves.obsm["X_filtered"][:, 1], truth) < 0.7 * error(mean @ narrow, truth)


def test_axes_without_spatial_variance_become_constant(waves):
    sagefm.tl.spatial_filter(waves, use_rep="X")
    assert np.ptp(waves.obsm["X_filtered"][:, 2]) < 1e-9
    assert np.allclose(waves.obsm["X_filtered"][:, 3], 3)
    axes = waves.uns["X_filtered"]["axes"].set_index("axis")
    assert (axes.loc[[2, 3], "spatial_share"] == 0).all()
    assert axes.loc[[2, 3], "range"].isna().all()


def test_shares_and_ranges_are_those_of_the_simulation(waves):
    sagefm.tl.spatial_filter(waves, use_rep="X")
    axes = waves.uns["X_filtered"]["axes"].set_index("axis")
    assert axes.loc[0, "spatial_share"] == pytest.approx(0.5 / 1.5, abs=0.1)
    assert axes.loc[1, "spatial_share"] == pytest.approx(2 / 3, abs=0.12)
    assert axes.loc[0, "range"] > 2 * axes.loc[1, "range"]


def test_sections_are_filtered_apart(waves):
    other = waves.copy()
    other.obsm["X"] = 5 * other.obsm["X"][::-1] + 40
    both = ad.concat({"a": waves, "b": other}, label="sample", index_unique="-", pairwise=True)
    sagefm.tl.spatial_filter(both, use_rep="X", sample_key="sample")
    for section, name in ((waves, "a"), (other, "b")):
        sagefm.tl.spatial_filter(section, use_rep="X")
        assert np.allclose(both.obsm["X_filtered"][both.obs["sample"] == name], section.obsm["X_filtered"])
    assert both.uns["X_filtered"]["axes"]["section"].unique().tolist() == ["a", "b"]


def test_isolated_spots_keep_their_values_and_missing_ones_stay_missing(waves):
    for name in ("spatial_connectivities", "spatial_distances"):
        graph = waves.obsp[name].tolil()
        graph[10, :] = graph[:, 10] = 0
        waves.obsp[name] = graph.tocsr()
        waves.obsp[name].eliminate_zeros()
    waves.obsm["X"][20] = np.nan
    sagefm.tl.spatial_filter(waves, use_rep="X")
    assert np.allclose(waves.obsm["X_filtered"][10, :2], waves.obsm["X"][10, :2])
    assert np.isnan(waves.obsm["X_filtered"][20]).all()
    assert np.isfinite(np.delete(waves.obsm["X_filtered"], 20, axis=0)).all()


def test_irregular_layouts_are_filtered(waves):
    rng = np.random.default_rng(1)
    waves.obsm["spatial"] = waves.obsm["spatial"] + rng.uniform(-0.45, 0.45, size=(SIDE**2, 2))
    sq.gr.spatial_neighbors_knn(waves, n_neighs=14)
    sagefm.tl.spatial_filter(waves, use_rep="X", key_added="filtered")
    for axis in (0, 1):
        truth = waves.obsm["truth"][:, axis]
        assert error(waves.obsm["filtered"][:, axis], truth) < 0.6 * error(waves.obsm["X"][:, axis], truth)


def test_rings_are_steps_on_the_grid(waves):
    """Squidpy's distances count rings here; the second ring of a square grid has eight spots."""
    graph, lengths = waves.obsp["spatial_connectivities"], waves.obsp["spatial_distances"]
    middle = SIDE * SIDE // 2 + SIDE // 2
    for given in (lengths, 137.0 * lengths):
        rings = rings_of_neighbors(graph, given, 3)
        assert [int(ring[middle].sum()) for ring in rings] == [4, 8, 12]
        assert all((ring != ring.T).nnz == 0 for ring in rings)


def test_the_result_survives_a_file(waves, tmp_path):
    sagefm.tl.spatial_filter(waves, use_rep="X")
    waves.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(read.obsm["X_filtered"], waves.obsm["X_filtered"])
    assert read.uns["X_filtered"]["axes"]["range"].equals(waves.uns["X_filtered"]["axes"]["range"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"use_rep": "none"}, KeyError, "use_rep='none' is not in obsm; found"),
        ({"n_rings": 1}, ValueError, "n_rings=1 must be 2 or more"),
        ({"neighbors_key": "none"}, KeyError, "no neighbour graph 'none_connectivities'"),
        ({"key_added": "a/b"}, ValueError, "contains '/'"),
    ],
)
def test_invalid_arguments_are_refused(waves, arguments, error, message):
    with pytest.raises(error, match=message):
        sagefm.tl.spatial_filter(waves, **{"use_rep": "X", **arguments})
