import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import sagefm


@pytest.fixture
def grid() -> ad.AnnData:
    """Two square sections of 20 by 20 spots, each with four quarters that are hard to distinguish in single spots."""
    row, col = (index.ravel() for index in np.mgrid[:20, :20])
    quarter = 2 * (row >= 10) + (col >= 10)
    rng = np.random.default_rng(0)
    centers = 1.5 * np.eye(4)
    names = [f"{section}_{spot}" for section in "ab" for spot in range(400)]
    obs = pd.DataFrame({"quarter": np.tile(quarter, 2).astype(str), "sample": np.repeat(["a", "b"], 400)}, index=names)
    values = centers[np.tile(quarter, 2)] + rng.normal(size=(800, 4))
    near = (np.abs(row[:, None] - row) + np.abs(col[:, None] - col)) == 1
    graph = sp.block_diag([near, near], format="csr", dtype=np.float32)
    return ad.AnnData(obs=obs, obsm={"X": values}, obsp={"spatial_connectivities": graph})


def ari(adata: ad.AnnData, key: str = "domain") -> float:
    return adjusted_rand_score(adata.obs["quarter"], adata.obs[key].astype(str))


def test_smoothing_helps_against_noise(grid):
    sagefm.tl.domains(grid, 4, use_rep="X", smooth=0, key_added="raw")
    sagefm.tl.domains(grid, 4, use_rep="X", smooth=2)
    assert ari(grid, "raw") < 0.6
    assert ari(grid) > 0.85


def test_leiden_finds_the_requested_number(grid):
    sagefm.tl.domains(grid, 4, use_rep="X", method="leiden", smooth=2)
    assert grid.obs["domain"].nunique() == 4
    assert ari(grid) > 0.8


def test_leiden_warns_if_no_resolution_gives_the_number(grid):
    grid.obsm["X"] = np.repeat(np.eye(2), 400, axis=0) * 100 + np.random.default_rng(0).normal(size=(800, 2))
    with pytest.warns(UserWarning, match="No Leiden resolution gives 1 domains; using 2"):
        sagefm.tl.domains(grid, 1, use_rep="X", method="leiden", smooth=0)


@pytest.mark.parametrize("method", ["gmm", "leiden"])
def test_the_number_of_domains_is_chosen_by_stability(grid, method):
    sagefm.tl.domains(grid, range(2, 8), use_rep="X", method=method, smooth=2)
    stability = grid.uns["domain"]["stability"]
    assert grid.obs["domain"].nunique() == grid.uns["domain"]["params"]["n_domains"] == 4
    assert stability["n_domains"].tolist() == list(range(2, 8))
    assert stability.set_index("n_domains").loc[4, "ari"] > stability.set_index("n_domains").loc[6, "ari"]


def test_the_seed_determines_the_result(grid):
    for key in ("one", "two"):
        sagefm.tl.domains(grid, 5, use_rep="X", seed=3, key_added=key)
    assert (grid.obs["one"] == grid.obs["two"]).all()


@pytest.mark.parametrize("n_domains", [5.0, np.float32(5), np.uint8(5), [5.0]], ids=repr)
def test_whole_numbers_of_any_type_are_accepted(grid, n_domains):
    sagefm.tl.domains(grid, n_domains, use_rep="X")
    assert grid.uns["domain"]["params"]["n_domains"] == grid.obs["domain"].nunique() == 5


@pytest.mark.parametrize("n_domains", [2.5, np.nan, np.inf, "5", [2, None]], ids=repr)
def test_other_numbers_of_domains_are_refused(grid, n_domains):
    with pytest.raises(ValueError, match="n_domains=.* must be a whole number, or several"):
        sagefm.tl.domains(grid, n_domains, use_rep="X")


def test_domains_are_numbered_by_size(grid):
    sagefm.tl.domains(grid, 6, use_rep="X")
    assert grid.obs["domain"].cat.categories.tolist() == list("123456")
    assert grid.obs["domain"].value_counts(sort=False).is_monotonic_decreasing


def test_a_section_is_smoothed_independently_of_the_others(grid):
    """Nothing leaks from one section to the other, nor from spots that are not embedded."""
    grid.obsm["X"][400:] = np.nan
    alone = grid[:400].copy()
    for adata in (grid, alone):
        sagefm.tl.domains(adata, 4, use_rep="X", sample_key="sample")
    assert (grid.obs["domain"][:400].to_numpy() == alone.obs["domain"].to_numpy()).all()
    assert grid.obs["domain"][400:].isna().all()


def test_scaling_within_sections_removes_a_shift_between_them(grid):
    grid.obsm["X"][400:] = 3 * grid.obsm["X"][400:] + 20
    sagefm.tl.domains(grid, 4, use_rep="X", smooth=2, key_added="raw")
    sagefm.tl.domains(grid, 4, use_rep="X", smooth=2, scale_by="sample")
    assert ari(grid, "raw") < 0.6
    assert ari(grid) > 0.85


def test_wide_and_sparse_representations_are_reduced(grid):
    wide = np.hstack([grid.obsm["X"], np.random.default_rng(1).normal(scale=0.01, size=(800, 60))])
    grid.obsm["wide"] = sp.csr_matrix(wide)
    sagefm.tl.domains(grid, 4, use_rep="wide", smooth=2)
    assert ari(grid) > 0.85


def test_the_result_survives_a_file(grid, tmp_path):
    sagefm.tl.domains(grid, [3, 4], use_rep="X")
    grid.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read.uns["domain"]["stability"].equals(grid.uns["domain"]["stability"])
    assert (read.obs["domain"] == grid.obs["domain"]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"use_rep": "X_none"}, KeyError, "use_rep='X_none' is not in obsm; found"),
        ({"neighbors_key": "none"}, KeyError, "no neighbour graph 'none_connectivities'"),
        ({"sample_key": "none"}, KeyError, "sample_key='none' is not a column of obs"),
        ({"method": "kmeans"}, ValueError, "method='kmeans' is not known"),
        ({"n_domains": 0}, ValueError, "must lie between 1 and 800"),
        ({"n_domains": [3, 801]}, ValueError, "must lie between 1 and 640"),
        ({"n_domains": []}, ValueError, "n_domains=\\[\\] must lie"),
        ({"smooth": -1}, ValueError, 'smooth=-1 must be "auto" or a number of rounds'),
    ],
)
def test_invalid_arguments_are_refused(grid, arguments, error, message):
    with pytest.raises(error, match=message):
        sagefm.tl.domains(grid, **{"n_domains": 3, "use_rep": "X", **arguments})


def test_an_edge_between_sections_is_refused(grid):
    graph = grid.obsp["spatial_connectivities"].tolil()
    graph[0, 799] = 1
    grid.obsp["spatial_connectivities"] = graph.tocsr()
    with pytest.raises(ValueError, match="join spots of different sections"):
        sagefm.tl.domains(grid, 3, use_rep="X", sample_key="sample")


def test_a_representation_without_finite_values_is_refused(grid):
    grid.obsm["X"][:] = np.nan
    with pytest.raises(ValueError, match=r"Every row of obsm\['X'\] has NaN"):
        sagefm.tl.domains(grid, 3, use_rep="X")
    grid.obsm["X"][:] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        sagefm.tl.domains(grid, 3, use_rep="X")
