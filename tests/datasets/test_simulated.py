"""The simulated tissue: it looks like a Visium section, and the planted effects can be found in it."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, issparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sagefm.datasets import simulated_tissue


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    return simulated_tissue()


@pytest.fixture(scope="module")
def sections() -> ad.AnnData:
    return simulated_tissue(20, 20, n_genes=300, n_interactions=2, n_sections=3)


# How a user would look at the section: log counts, means of the neighbours, and residuals given domain and depth.


def library_sizes(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.X.sum(axis=1)).ravel()


def log_counts(adata: ad.AnnData) -> np.ndarray:
    size = library_sizes(adata)[:, None]
    return np.log1p(adata.X.toarray() / size * np.median(size))


def neighbours_mean(adata: ad.AnnData) -> csr_matrix:
    pairs = cKDTree(adata.obsm["spatial"]).query_pairs(105.0, output_type="ndarray")
    adjacency = csr_matrix((np.ones(len(pairs)), pairs.T), shape=(adata.n_obs, adata.n_obs))
    adjacency = adjacency + adjacency.T
    return adjacency.multiply(1 / adjacency.sum(axis=1)).tocsr()


def residuals(adata: ad.AnnData, values: np.ndarray) -> np.ndarray:
    """Return what domain and depth do not explain."""
    domain = pd.get_dummies(adata.obs["annotation"]).to_numpy(float)
    known = np.column_stack([domain, np.log(library_sizes(adata))])
    return values - known @ np.linalg.lstsq(known, values, rcond=None)[0]


def neighbour_correlations(adata: ad.AnnData, pairs: pd.DataFrame, *, adjusted: bool) -> np.ndarray:
    """Correlate each target with its ligand's mean over the neighbours."""
    expression = log_counts(adata)
    ligand = (neighbours_mean(adata) @ expression)[:, adata.var_names.get_indexer(pairs["source"])]
    target = expression[:, adata.var_names.get_indexer(pairs["target"])]
    if adjusted:
        ligand, target = residuals(adata, ligand), residuals(adata, target)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(ligand.T, target.T, strict=True)])


# Reproducibility -----------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_identical_object():
    first, second = (simulated_tissue(12, 12, n_genes=200, n_sections=2, seed=3) for _ in range(2))
    assert (first.X != second.X).nnz == 0
    pd.testing.assert_frame_equal(first.obs, second.obs)
    pd.testing.assert_frame_equal(first.var, second.var)
    pd.testing.assert_frame_equal(first.obsm["programmes"], second.obsm["programmes"])
    for name, table in first.uns["simulated_tissue"].items():
        pd.testing.assert_frame_equal(table, second.uns["simulated_tissue"][name])


def test_other_seed_gives_another_tissue():
    first, second = (simulated_tissue(12, 12, n_genes=200, outline="rectangle", seed=seed) for seed in (0, 1))
    assert (first.X != second.X).nnz > 0
    assert (first.obs["annotation"].to_numpy() != second.obs["annotation"].to_numpy()).any()


# Counts --------------------------------------------------------------------------------------------------------------


def test_counts_are_raw_integers_in_csr_float32(section):
    assert section.n_vars == 2000
    assert 1500 <= section.n_obs <= 2000
    assert issparse(section.X)
    assert section.X.format == "csr"
    assert section.X.dtype == np.float32
    assert not section.layers
    np.testing.assert_array_equal(section.X.data, np.round(section.X.data))
    assert section.X.data.min() >= 1


def test_depth_and_sparsity_are_those_of_visium(section):
    assert 4000 <= np.median(library_sizes(section)) <= 5000
    assert 0.3 <= np.log(library_sizes(section)).std() <= 0.7
    assert 0.70 <= 1 - section.X.nnz / np.prod(section.shape) <= 0.90


def test_depth_is_correlated_among_neighbours(section):
    log_depth = np.log(library_sizes(section))
    assert 0.3 < np.corrcoef(log_depth, neighbours_mean(section) @ log_depth)[0, 1] < 0.9


def test_counts_are_overdispersed(section):
    # Poisson counts would have a Pearson statistic near 1 per entry, given a mean that depends on gene and depth only.
    top = np.argsort(-np.asarray(section.X.sum(axis=0)).ravel())[:200]
    counts = section.X[:, top].toarray()
    mean = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    assert ((counts - mean) ** 2 / mean).mean() > 2


def test_library_size_sets_the_median_and_no_spot_is_empty():
    deep, shallow = (simulated_tissue(12, 12, n_genes=200, library_size=size) for size in (1000, 1))
    assert 800 < np.median(library_sizes(deep)) < 1200
    assert library_sizes(shallow).min() == 1


# Geometry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outline", ["blob", "rectangle"])
def test_interior_spots_have_six_neighbours_at_100_micrometres(outline):
    adata = simulated_tissue(20, 20, n_genes=200, outline=outline)
    distance, _ = cKDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=8)
    assert np.all(distance[:, 1:] > 99.9)
    n_neighbours = np.isclose(distance[:, 1:], 100.0).sum(axis=1)
    assert n_neighbours.max() == 6
    assert (n_neighbours == 6).mean() > 0.6
    assert n_neighbours.min() >= 1


def test_tissue_is_one_piece():
    for seed in range(10):
        adata = simulated_tissue(30, 30, n_genes=81, seed=seed)
        n_pieces, _ = connected_components(neighbours_mean(adata))
        assert n_pieces == 1


def test_array_columns_follow_the_visium_convention(section):
    row, column = section.obs["array_row"], section.obs["array_col"]
    assert (row % 2 == column % 2).all()
    np.testing.assert_allclose(section.obsm["spatial"], np.column_stack([column * 50, row * 50 * np.sqrt(3)]))


def test_rectangle_keeps_the_lattice_and_blob_keeps_a_part():
    assert simulated_tissue(20, 15, n_genes=200, outline="rectangle").n_obs == 300
    assert 200 <= simulated_tissue(20, 15, n_genes=200).n_obs <= 225


@pytest.mark.parametrize("shape", [(3, 3), (3, 60), (60, 3)])
def test_smallest_and_narrow_sections_work(shape):
    adata = simulated_tissue(*shape, n_genes=100, n_interactions=1)
    assert adata.n_obs >= 6
    assert np.isfinite(adata.obsm["programmes"]).all().all()


# Domains and programmes ----------------------------------------------------------------------------------------------


def test_annotation_covers_layers_and_niches(section):
    domains = [f"layer_{i}" for i in range(1, 7)] + ["niche_1", "niche_2"]
    assert section.obs["annotation"].cat.categories.tolist() == domains
    assert section.obs["annotation"].value_counts().min() >= 50


def test_annotation_is_the_prevailing_domain_and_borders_are_soft(section):
    shares = section.obsm["programmes"].filter(regex="layer|niche")
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares.idxmax(axis=1) == section.obs["annotation"].astype(str)).all()
    assert 0.1 < (shares.max(axis=1) < 0.8).mean() < 0.6


def test_one_layer_without_niches_or_interactions():
    adata = simulated_tissue(8, 8, n_genes=100, n_layers=1, n_niches=0, n_interactions=0)
    assert adata.obs["annotation"].unique().tolist() == ["layer_1"]
    assert adata.uns["simulated_tissue"]["interactions"].empty


def test_markers_are_higher_in_their_own_domain(section):
    expression = log_counts(section)
    for domain in section.obs["annotation"].cat.categories:
        markers = (section.var["programme"] == domain) & (section.var["role"] == "marker")
        inside = (section.obs["annotation"] == domain).to_numpy()
        of_markers = expression[:, markers.to_numpy()].mean(axis=1)
        assert of_markers[inside].mean() > 1.2 * of_markers[~inside].mean()


def test_roles_and_programmes_of_the_genes(section):
    counted = section.var["role"].value_counts()
    assert (counted[["ligand", "target", "decoy_ligand", "decoy_target"]] == 6).all()
    assert section.var_names.is_unique
    markers = section.uns["simulated_tissue"]["markers"]
    np.testing.assert_array_equal(section.var.loc[markers["gene"], "programme"], markers["programme"])
    assert set(markers["programme"]) == set(section.obsm["programmes"])


def test_cell_types_correlate_genes_beyond_the_neighbours(section):
    expression = log_counts(section)
    own = residuals(section, expression - neighbours_mean(section) @ expression)
    often_counted = np.asarray(section.X.mean(axis=0)).ravel() > 1
    programme = section.var["programme"].to_numpy(str)
    genes = np.flatnonzero(often_counted & np.char.startswith(programme, "cell_type"))
    correlation = np.corrcoef(own[:, genes].T)
    same = programme[genes][:, None] == programme[genes]
    within = correlation[same & ~np.eye(len(genes), dtype=bool)].mean()
    assert within > 0.08
    assert within > correlation[~same].mean() + 0.08


def test_cell_types_have_no_spatial_structure_of_their_own(section):
    programmes = section.obsm["programmes"]
    own = residuals(section, programmes.to_numpy())
    around = neighbours_mean(section) @ own
    r = pd.Series([np.corrcoef(a, b)[0, 1] for a, b in zip(own.T, around.T, strict=True)], index=programmes.columns)
    assert r.filter(like="cell_type").abs().mean() < 0.08
    assert r.filter(like="gradient").min() > 0.8


# Interactions --------------------------------------------------------------------------------------------------------


def test_interactions_name_their_genes_and_both_signs(section):
    truth = section.uns["simulated_tissue"]
    assert truth["interactions"].columns.tolist() == ["source", "target", "effect", "sign"]
    assert truth["decoys"].columns.tolist() == ["source", "target", "domain"]
    assert set(truth["interactions"]["sign"]) == {-1, 1}
    assert (np.sign(truth["interactions"]["effect"]) == truth["interactions"]["sign"]).all()
    for table, roles in [("interactions", ["ligand", "target"]), ("decoys", ["decoy_ligand", "decoy_target"])]:
        assert (section.var.loc[truth[table]["source"], "role"] == roles[0]).all()
        assert (section.var.loc[truth[table]["target"], "role"] == roles[1]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_effects_remain_given_domain_and_depth_and_decoys_do_not(seed):
    adata = simulated_tissue(seed=seed)
    truth = adata.uns["simulated_tissue"]
    planted = neighbour_correlations(adata, truth["interactions"], adjusted=True) * truth["interactions"]["sign"]
    decoys = neighbour_correlations(adata, truth["decoys"], adjusted=True)
    assert planted.min() > 0.12
    assert np.abs(decoys).max() < planted.min()
    assert np.abs(decoys).mean() < planted.mean() / 4


def test_decoys_are_correlated_unless_domains_are_known(section):
    assert neighbour_correlations(section, section.uns["simulated_tissue"]["decoys"], adjusted=False).mean() > 0.2


def test_decoy_domain_is_that_of_both_genes(section):
    decoys = section.uns["simulated_tissue"]["decoys"]
    for end in ("source", "target"):
        np.testing.assert_array_equal(section.var.loc[decoys[end], "programme"], decoys["domain"])


# Several sections ----------------------------------------------------------------------------------------------------


def test_sections_differ_in_geometry_and_depth_and_share_the_truth(sections):
    assert sections.obs["sample"].cat.categories.tolist() == ["section_1", "section_2", "section_3"]
    assert sections.obs_names.is_unique
    parts = [sections[sections.obs["sample"] == name] for name in sections.obs["sample"].cat.categories]
    assert len({frozenset(zip(p.obs["array_row"], p.obs["array_col"], strict=True)) for p in parts}) == 3
    medians = [np.median(library_sizes(part)) for part in parts]
    assert max(medians) > 1.1 * min(medians)
    assert all(set(p.obs["annotation"]) >= {f"layer_{i}" for i in range(1, 7)} for p in parts)


def test_sections_have_gene_specific_factors(sections):
    first, second = (
        np.asarray(sections[sections.obs["sample"] == f"section_{i}"].X.sum(axis=0)).ravel() for i in (1, 2)
    )
    often = (first > 200) & (second > 200)
    assert 0.2 < np.std(np.log(first[often] / second[often])) < 1.0


def test_first_section_does_not_depend_on_the_number_of_sections(sections):
    alone = simulated_tissue(20, 20, n_genes=300, n_interactions=2)
    first = sections[sections.obs["sample"] == "section_1"]
    assert first.obs_names.equals(alone.obs_names)
    assert (first.X != alone.X).nnz == 0


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_interactions", [0, 2])
def test_everything_is_the_same_after_writing_and_reading(tmp_path, n_interactions):
    adata = simulated_tissue(8, 8, n_genes=200, n_interactions=n_interactions, n_sections=2)
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    read = ad.read_h5ad(tmp_path / "tissue.h5ad")
    assert (read.X != adata.X).nnz == 0
    pd.testing.assert_frame_equal(read.obs, adata.obs)
    pd.testing.assert_frame_equal(read.var, adata.var)
    pd.testing.assert_frame_equal(read.obsm["programmes"], adata.obsm["programmes"])
    assert set(read.uns["simulated_tissue"]) == {"interactions", "decoys", "markers"}
    for name, table in adata.uns["simulated_tissue"].items():
        pd.testing.assert_frame_equal(read.uns["simulated_tissue"][name], table)


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_rows": 2}, r"n_rows is 2; expected a whole number: pass n_rows=3 or more"),
        ({"n_cols": 2.5}, r"n_cols is 2\.5; expected a whole number: pass n_cols=3 or more"),
        ({"n_layers": 0}, r"n_layers is 0; .* pass n_layers=1 or more"),
        ({"n_niches": -1}, r"n_niches is -1; .* pass n_niches=0 or more"),
        ({"n_interactions": -1}, r"n_interactions is -1; .* pass n_interactions=0 or more"),
        ({"n_sections": 0}, r"n_sections is 0; .* pass n_sections=1 or more"),
        ({"seed": -1}, r"seed is -1; .* pass seed=0 or more"),
        ({"seed": None}, r"seed is None; .* pass seed=0 or more"),
        ({"n_genes": 80}, r"n_genes is 80; expected a whole number of at least 81, .*: pass more genes, or lower"),
        ({"n_genes": "many"}, r"n_genes is 'many'; expected a whole number of at least 81"),
        ({"outline": "round"}, r"outline='round' is not known; it is one of 'blob', 'rectangle'"),
        ({"library_size": 0}, r"library_size is 0; expected a positive, finite number of UMIs per spot: pass one, or"),
        ({"library_size": float("nan")}, r"library_size is nan; expected a positive, finite number"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulated_tissue(**arguments)


def test_smallest_number_of_genes_works():
    assert simulated_tissue(6, 6, n_genes=81).n_vars == 81
