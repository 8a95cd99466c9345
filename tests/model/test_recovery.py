"""`get_masked_recovery`: the table agrees with scipy on the same masked entries."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scvi
from scipy import stats

import sagefm
from sagefm.model import Moments, fisher_average, random_masks


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, n_sections=2, seed=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return adata


@pytest.fixture(scope="module")
def model(tissue: ad.AnnData) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=64, n_latent=16)
    model.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def table(model):
    return model.get_masked_recovery(seed=3)


def recovery_by_scipy(model, tissue, gene: int, section: str) -> tuple[float, float, int]:
    """Mask as `get_masked_recovery` does, impute, scale as scanpy does, and correlate with scipy."""
    mask = random_masks([3], tissue.n_vars, 0.3)[0][np.arange(tissue.n_obs)]
    predicted = model.impute_masked(mask=mask).to_numpy()
    rows = np.flatnonzero(tissue.obs["sample"] == section)
    part = tissue[rows].copy()
    depth = float(np.median(np.asarray(part.X.sum(axis=1))))
    sc.pp.normalize_total(part, target_sum=depth)
    sc.pp.log1p(part)
    truth = part.X.toarray()[:, gene]
    graph = part.obsp["spatial_connectivities"]
    neighbors = (graph @ part.X.toarray())[:, gene] / np.asarray(graph.sum(axis=1)).ravel()
    masked = mask[rows, gene]
    at_depth = np.log1p(np.expm1(predicted[rows, gene]) * depth / model.target_depth)
    r, r_neighbors = (stats.pearsonr(x[masked], truth[masked]).statistic for x in (at_depth, neighbors))
    return r, r_neighbors, int(masked.sum())


@pytest.mark.parametrize("gene", [0, 20, 101])
def test_the_table_agrees_with_scipy(model, tissue, table, gene):
    parts = [recovery_by_scipy(model, tissue, gene, section) for section in ("section_1", "section_2")]
    weights = np.array([n - 3 for *_, n in parts])
    row = table.iloc[gene]
    for column, position in (("r", 0), ("r_neighbors", 1)):
        z = np.average(np.arctanh([part[position] for part in parts]), weights=weights)
        assert row[column] == pytest.approx(np.tanh(z), abs=1e-4)
    z = np.arctanh(row["r"]) * np.sqrt(weights.sum())
    assert row["p"] == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-3)
    assert row["n"] == sum(n for *_, n in parts)


def test_q_values_are_by_benjamini_and_hochberg(table):
    tested = table["p"].notna()
    np.testing.assert_allclose(table.loc[tested, "q"], stats.false_discovery_control(table.loc[tested, "p"]))


def test_totals_follow_from_the_table(table):
    tested = table[table["r"].notna()]
    attrs = table.attrs
    assert attrs["n_genes"] == len(tested) and attrs["n_sections"] == 2 and attrs["seed"] == 3
    assert attrs["share_p05"] == pytest.approx((tested["p_pooled"] < 0.05).mean())
    assert attrs["share_q05"] == pytest.approx(((tested["q"] < 0.05) & (tested["r"] > 0)).mean())
    assert attrs["median_r"] == pytest.approx(tested["r"].median())
    top = tested.nlargest(500, "mean_expression")
    assert attrs["top500_r"] == pytest.approx(top["r"].mean())
    assert attrs["top500_share_q05"] == pytest.approx(((top["q"] < 0.05) & (top["r"] > 0)).mean())


def test_several_masks_score_each_entry_at_most_once(model, tissue, table):
    tables = [model.get_masked_recovery(mask_fraction=0.25, n_masks=number, seed=3) for number in (1, 2, 4)]
    n_entries = (np.diff(tissue.obsp["spatial_connectivities"].indptr) > 0).sum()
    for found, share in zip(tables, (0.25, 0.5, 1), strict=True):
        assert (found["n"] <= n_entries).all()
        assert found["n"].mean() == pytest.approx(share * n_entries, rel=0.02)
    assert (tables[-1]["n"] == n_entries).all() and tables[-1].attrs["n_masks"] == 4
    assert tables[-1].attrs["top500_r"] == pytest.approx(tables[0].attrs["top500_r"], abs=0.03)


@pytest.mark.parametrize(("fraction", "number"), [(0.3, 4), (0.3, 0), (0.6, 2)])
def test_overlapping_masks_are_refused(model, fraction, number):
    with pytest.raises(ValueError, match=f"n_masks={number} must lie between 1 and"):
        model.get_masked_recovery(mask_fraction=fraction, n_masks=number)


def test_a_trained_model_beats_the_mean_of_the_neighbours():
    adata = sagefm.datasets.simulated_tissue(30, 30, n_genes=300, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, n_hidden=64, n_latent=16)
    model.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    totals = model.get_masked_recovery().attrs
    assert totals["top500_r"] > totals["top500_r_neighbors"] + 0.03


def test_the_seed_fixes_the_masks_and_batch_size_does_not_matter(model, table):
    again = model.get_masked_recovery(seed=[3], batch_size=50)
    np.testing.assert_allclose(again["r"], table["r"], atol=1e-5)
    np.testing.assert_array_equal(again["n"], table["n"])
    assert not np.allclose(model.get_masked_recovery(seed=4)["r"], table["r"])


def test_isolated_spots_are_not_scored(model, tissue):
    lonely = tissue.copy()
    graph = lonely.obsp["spatial_connectivities"].tolil()
    graph[:30], graph[:, :30] = 0, 0
    lonely.obsp["spatial_connectivities"] = graph.tocsr()
    kept = model.get_masked_recovery(lonely)
    assert kept["n"].sum() < model.get_masked_recovery(tissue)["n"].sum()


def test_a_model_of_raw_counts_is_scored_on_the_same_scale(tissue):
    scvi.settings.seed = 0
    raw = sagefm.SAGEFM(tissue, n_hidden=64, normalization="none")
    raw.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    assert raw.get_masked_recovery().attrs["top500_r"] > 0.1


@pytest.mark.parametrize("fraction", [0, 1, 1.2])
def test_wrong_mask_fraction_is_named(model, fraction):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        model.get_masked_recovery(mask_fraction=fraction)


def test_moments_give_pearson_correlations_and_flag_what_does_not_vary():
    rng = np.random.default_rng(0)
    truth, predicted, mean = (rng.random((60, 4)).astype(np.float32) + 5 for _ in range(3))
    truth[:, 2] = 7
    predicted[:, 1] = 7
    mask = rng.random(truth.shape) < 0.6
    moments = Moments(truth.sum(axis=0), 60)
    moments.add(mask[:25], truth[:25], predicted[:25], mean[:25])
    moments.add(mask[25:], truth[25:], predicted[25:], mean[25:])
    r, _ = moments.correlations()
    expected = stats.pearsonr(truth[mask[:, 0], 0], predicted[mask[:, 0], 0]).statistic
    assert r[0] == pytest.approx(expected, abs=1e-5)
    assert r[1] == 0 and np.isnan(r[2])


def test_the_average_over_sections_is_weighted_by_their_size_and_skips_nan():
    r = np.array([[0.5, np.nan], [0.1, 0.3]])
    n = np.array([[103.0, 50.0], [13.0, 50.0]])
    mean, p = fisher_average(r, n)
    assert mean[0] == pytest.approx(np.tanh((100 * np.arctanh(0.5) + 10 * np.arctanh(0.1)) / 110))
    assert mean[1] == pytest.approx(0.3)
    assert p[1] == pytest.approx(2 * stats.norm.sf(np.arctanh(0.3) * np.sqrt(47)))
