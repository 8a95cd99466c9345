from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import sagefm
from sagefm.tl._consensus import agreement, clusterings_of, co_membership


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


@pytest.fixture
def patches() -> ad.AnnData:
    """A square section of patches that are two spots wide, in the representation and in 60 genes."""
    row, col = (index.ravel() for index in np.mgrid[:24, :24])
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, size=(12, 12))[row // 2, col // 2]
    counts = rng.poisson(np.where(np.arange(60) % 3 == kind[:, None], 3.0, 1.0))
    obs = pd.DataFrame({"quarter": kind.astype(str)}, index=[f"spot_{n}" for n in range(576)])
    adata = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs)
    adata.obsm["X"] = 2.2 * np.eye(3)[kind] + rng.normal(size=(576, 3))
    steps = np.abs(row[:, None] - row) + np.abs(col[:, None] - col)
    adata.obsp["spatial_connectivities"] = sp.csr_matrix((steps > 0) & (steps < 3), dtype=np.float32)
    adata.obsp["spatial_distances"] = sp.csr_matrix(np.where(steps < 3, steps, 0), dtype=np.float64)
    return adata


def test_the_default_keeps_narrow_and_broad_domains(grid, patches):
    for adata, n_domains in ((patches, 3), (grid, 4)):
        sagefm.tl.domains(adata, n_domains, use_rep="X", smooth=1, key_added="averaged")
        sagefm.tl.domains(adata, n_domains, use_rep="X")
    assert ari(patches, "averaged") < 0.5
    assert ari(patches) > 0.8
    assert ari(grid) > ari(grid, "averaged") - 0.05


def test_expression_is_read_from_a_layer_raw_or_normalised(patches):
    sagefm.tl.domains(patches, 3, use_rep="X", key_added="of_X")
    patches.layers["counts"] = patches.X
    patches.layers["logged"] = patches.X.log1p()
    patches.X = None
    sagefm.tl.domains(patches, 3, use_rep="X", layer="counts")
    assert (patches.obs["domain"] == patches.obs["of_X"]).all()
    sagefm.tl.domains(patches, 3, use_rep="X", layer="logged")
    assert ari(patches) > 0.6
    sagefm.tl.domains(patches, 3, use_rep="X", key_added="alone")
    assert ari(patches, "alone") < ari(patches)
    with pytest.raises(KeyError, match="layer='none' is not in layers; found \\['counts', 'logged'\\]"):
        sagefm.tl.domains(patches, 3, use_rep="X", layer="none")


def test_expression_is_read_from_a_backed_file(patches, tmp_path):
    sagefm.tl.domains(patches, 3, use_rep="X", key_added="in_memory")
    patches.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sagefm.tl.domains(backed, 3, use_rep="X")
    assert (backed.obs["domain"] == patches.obs["in_memory"]).all()
    backed.file.close()


def test_whole_numbers_below_zero_are_no_counts(patches):
    patches.X = np.round(4 * patches.X.log1p().toarray()) - 3
    sagefm.tl.domains(patches, 3, use_rep="X")
    assert ari(patches) > 0.6


def test_expression_without_signal_is_left_out(patches):
    patches.layers["none"] = 0 * patches.X
    sagefm.tl.domains(patches, 3, use_rep="X", layer="none")
    of_no_genes = patches[:, :0].copy()
    for other in (of_no_genes, patches[:, :1].copy()):
        sagefm.tl.domains(other, 3, use_rep="X")
        assert (other.obs["domain"] == patches.obs["domain"]).all()


def test_missing_expression_is_refused(patches):
    patches.layers["joined"] = patches.X.toarray()
    patches.layers["joined"][:5, 7] = np.nan
    with pytest.raises(ValueError, match=r"layers\['joined'\] has 5 values that are NaN or infinite"):
        sagefm.tl.domains(patches, 3, use_rep="X", layer="joined")


def test_a_constant_representation_is_refused(patches):
    patches.obsm["X"][:] = 1
    for smooth in ("auto", 0):
        with pytest.raises(ValueError, match=r"All rows of obsm\['X'\] are the same"):
            sagefm.tl.domains(patches, 3, use_rep="X", smooth=smooth)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_domains_without_spots_are_reported(grid):
    grid.obsm["X"] = np.eye(4)[grid.obs["quarter"].astype(int)]
    with pytest.warns(UserWarning, match="Only 4 of 6 domains have spots"):
        sagefm.tl.domains(grid, 6, use_rep="X", smooth=0)
    assert grid.obs["domain"].nunique() == 4


def test_noise_without_expression_is_clustered_without_warnings(grid, recwarn):
    grid.obsm["X"] = np.random.default_rng(0).normal(size=(800, 4))
    sagefm.tl.domains(grid, 4, use_rep="X")
    assert not [str(warning.message) for warning in recwarn if "distinct clusters" in str(warning.message)]


def test_a_number_must_be_given_for_a_few_spots(grid):
    with pytest.raises(ValueError, match="only 4 embedded spots; pass the number of domains"):
        sagefm.tl.domains(grid[:4].copy(), use_rep="X", smooth=0)


def test_spots_that_are_always_together_have_the_same_coordinates():
    clusterings = np.array([[0, 0, 1, 1, 2], [1, 1, 0, 2, 2], [2, 2, 0, 0, 1]])
    coordinates = co_membership(clusterings)
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    assert coordinates.shape == (5, 2)
    assert distances[0, 1] == pytest.approx(0, abs=1e-9)
    assert distances[2, 3] < distances[0, 2]


def test_the_consensus_agrees_with_single_clusterings_more_than_they_do_with_one_another(grid):
    clusterings = clusterings_of([grid.obsm["X"], grid.obsm["X"][:, :3]], 6, seed=0, n=8)
    consensus = GaussianMixture(6, covariance_type="tied", random_state=0).fit_predict(co_membership(clusterings))
    pairs = [adjusted_rand_score(*pair) for pair in combinations(clusterings, 2)]
    assert agreement(consensus, clusterings) > np.mean(pairs) + 0.02


def test_colours_are_stored_where_scanpy_looks(grid):
    grid.uns["domain_colors"] = ["red"] * 9
    sagefm.tl.domains(grid, 4, use_rep="X", smooth=1)
    assert len(set(grid.uns["domain_colors"])) == 4
