"""`get_masked_recovery`: the table agrees with scipy on the same masked entries."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import scvi
from scipy import stats
from scipy.ndimage import gaussian_filter

import sagefm
from sagefm.model import (
    Autocorrelation,
    LagPairs,
    Moments,
    combined_p,
    effective_size,
    fisher_average,
    make_record,
    noise_ceiling,
    random_masks,
)


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
    return model.get_masked_recovery(seed=3, indices="all")


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
    assert row["n"] == sum(n for *_, n in parts)


def test_q_values_are_by_benjamini_and_hochberg(table):
    tested = table["p"].notna()
    np.testing.assert_allclose(table.loc[tested, "q"], stats.false_discovery_control(table.loc[tested, "p"]))


def test_totals_follow_from_the_table(table):
    tested = table[table["r"].notna()]
    attrs = table.attrs
    assert attrs["n_genes"] == len(tested) and attrs["n_sections"] == 2 and attrs["seed"] == 3
    assert attrs["share_p05_naive"] == pytest.approx((tested["p_naive"] < 0.05).mean())
    assert attrs["share_q05"] == pytest.approx(((tested["q"] < 0.05) & (tested["r"] > 0)).mean())
    assert attrs["median_r"] == pytest.approx(tested["r"].median())
    top = tested.nlargest(500, "mean_expression")
    assert attrs["top500_r"] == pytest.approx(top["r"].mean())
    assert attrs["top500_r_max"] == pytest.approx(top["r_max"].mean())
    assert attrs["top500_share_of_ceiling"] == pytest.approx(top["r"].mean() / top["r_max"].mean())
    assert attrs["top500_share_q05"] == pytest.approx(((top["q"] < 0.05) & (top["r"] > 0)).mean())


def test_several_masks_score_each_entry_at_most_once(model, tissue, table):
    settings = {"mask_fraction": 0.25, "seed": 3, "indices": "all"}
    tables = [model.get_masked_recovery(n_masks=number, **settings) for number in (1, 2, 4)]
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
    again = model.get_masked_recovery(seed=[3], batch_size=50, indices="all")
    np.testing.assert_allclose(again["r"], table["r"], atol=1e-5)
    np.testing.assert_array_equal(again["n"], table["n"])
    assert not np.allclose(model.get_masked_recovery(seed=4, indices="all")["r"], table["r"])


def test_isolated_spots_are_not_scored(model, tissue):
    lonely = tissue.copy()
    graph = lonely.obsp["spatial_connectivities"].tolil()
    graph[:30], graph[:, :30] = 0, 0
    lonely.obsp["spatial_connectivities"] = graph.tocsr()
    kept, whole = (model.get_masked_recovery(section, indices="all") for section in (lonely, tissue))
    assert kept["n"].sum() < whole["n"].sum()


def test_isolated_spots_alone_have_no_scores(model, tissue):
    lonely = tissue.copy()
    graph = lonely.obsp["spatial_connectivities"].tolil()
    graph[0], graph[:, 0] = 0, 0
    lonely.obsp["spatial_connectivities"] = graph.tocsr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table = model.get_masked_recovery(lonely, indices=[0])
    assert table[["r", "r_max", "p"]].isna().all(axis=None) and not table["n"].any()


def test_a_model_of_raw_counts_is_scored_on_the_same_scale(tissue):
    scvi.settings.seed = 0
    raw = sagefm.SAGEFM(tissue, n_hidden=64, normalization="none")
    raw.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    assert raw.get_masked_recovery(indices="all").attrs["top500_r"] > 0.1


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


# Significance.


def test_smooth_unrelated_maps_are_rarely_significant():
    graph, spots = layout_of(30), np.arange(900)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 300, 60, 60))
    smooth = gaussian_filter(noise, (0, 0, 3, 3))[..., 15:45, 15:45].reshape(2, 300, 900)
    truth, prediction = ((x - x.mean(axis=1, keepdims=True)).T for x in smooth)
    mask = rng.random(truth.shape) < 0.3
    lags = LagPairs(graph, spots)
    observed, predicted = (Autocorrelation(lags, 300) for _ in range(2))
    observed.add(spots, truth)
    predicted.add(spots[:500], prediction[:500], mask[:500])
    predicted.add(spots[500:], prediction[500:], mask[500:])
    moments = Moments(truth.sum(axis=0), 900)
    moments.add(mask, truth, prediction, prediction)
    r = moments.correlations()[:1]
    assert (combined_p(r, moments.n[None]) < 0.05).mean() > 0.3
    assert (
        0.02 < (combined_p(r, effective_size(moments.n, observed.by_distance(), predicted)[None]) < 0.05).mean() < 0.09
    )


def layout_of(side: int) -> sp.csr_matrix:
    """Return the two-ring graph of a square grid."""
    places = np.indices((side, side)).reshape(2, -1)
    steps = np.abs(places[:, :, None] - places[:, None]).sum(axis=0)
    return sp.csr_matrix(((steps > 0) & (steps <= 2)).astype(np.float32))


def test_white_noise_keeps_its_number_of_spots():
    graph, spots = layout_of(30), np.arange(900)
    values = np.random.default_rng(0).normal(size=(2, 900, 200))
    lags = LagPairs(graph, spots)
    observed, predicted = (Autocorrelation(lags, 200) for _ in range(2))
    observed.add(spots, values[0])
    predicted.add(spots, values[1])
    assert np.median(effective_size(np.full(200, 900.0), observed.by_distance(), predicted)) == pytest.approx(
        901, rel=0.02
    )


def test_a_large_section_is_sampled_in_blocks():
    graph, spots = layout_of(60), np.arange(3600)
    lags = LagPairs(graph, spots)
    assert len(lags.spots) == 3000
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(50, 60, 60)), (0, 2, 2)).reshape(50, -1).T
    part, whole = Autocorrelation(lags, 50), Autocorrelation(LagPairs(graph[:2400, :2400], spots[:2400]), 50)
    part.add(spots, smooth)
    whole.add(spots[:2400], smooth[:2400])
    np.testing.assert_allclose(part.by_distance().mean(axis=1), whole.by_distance().mean(axis=1), atol=0.1)
    assert part.by_distance()[0].mean() > 0.5


def test_p_is_students_for_one_section(model, tissue):
    first = (tissue.obs["sample"] == "section_1").to_numpy()
    table = model.get_masked_recovery(indices=first)
    row = table.iloc[20]
    statistic = row["r"] * np.sqrt((row["n_effective"] - 2) / (1 - row["r"] ** 2))
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(statistic), row["n_effective"] - 2), rel=1e-6)
    assert (table["n_effective"] <= table["n"] + 1).all()


# Noise ceiling.


def test_the_ceiling_is_what_a_perfect_prediction_reaches():
    rng = np.random.default_rng(0)
    expected = np.exp(rng.normal(scale=[0.3, 0.6, 1.0], size=(4000, 3))) * [2, 2, 5]
    rest = np.full((4000, 1), 500.0)
    counts = sp.csr_matrix(rng.poisson(np.hstack([expected, rest])), dtype=np.float32)
    ceiling = noise_ceiling(counts, 520)[:3]
    reached = [np.corrcoef(np.log1p(expected[:, g]), np.log1p(counts.toarray()[:, g]))[0, 1] for g in range(3)]
    np.testing.assert_allclose(ceiling, reached, atol=0.04)


def test_counts_that_are_not_whole_have_no_ceiling():
    counts = sp.csr_matrix(np.random.default_rng(0).random((20, 4)))
    assert np.isnan(noise_ceiling(counts, 10)).all()


# Which spots are scored.


def test_held_out_spots_are_scored_by_default(model, tissue, caplog):
    with caplog.at_level("INFO", "sagefm"):
        default = model.get_masked_recovery(seed=3)
    held_out = np.sort(model.validation_indices)
    assert f"Scored the {len(held_out)} spots that were held out of training, of {tissue.n_obs}" in caplog.text
    expected = model.get_masked_recovery(seed=3, indices=held_out)
    pd.testing.assert_frame_equal(default, expected)
    assert default.attrs["spots"] == "held out" and default.attrs["n_spots"] == len(held_out)
    assert model.get_masked_recovery(indices="all").attrs["spots"] == "trained on"
    assert model.get_masked_recovery(indices=model.train_indices).attrs["spots"] == "trained on"


def test_held_out_spots_are_found_after_a_filter_in_place_and_after_loading(model, tissue, tmp_path):
    held_out = set(tissue.obs_names[model.validation_indices])
    kept = tissue[np.arange(tissue.n_obs) % 3 != 0, 5:].copy()
    assert model.get_masked_recovery(kept).attrs["n_spots"] == len(held_out & set(kept.obs_names))
    model.save(tmp_path / "model")
    loaded = sagefm.SAGEFM.load(tmp_path / "model", tissue.copy())
    found = loaded.get_masked_recovery()
    assert found.attrs["spots"] == "held out" and found.attrs["n_spots"] == len(held_out)


def test_another_section_of_the_same_barcodes_is_scored_whole(model, tissue):
    other = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, n_sections=2, seed=8)
    other.obs_names = [f"other_{name}" for name in other.obs_names]
    other.obs_names = [*tissue.obs_names[: other.n_obs], *other.obs_names[tissue.n_obs :]]
    other.X = sp.csr_matrix(other.X.multiply(np.random.default_rng(0).integers(3, 9, (other.n_obs, 1))))
    found = model.get_masked_recovery(other)
    assert found.attrs["spots"] == "new" and found.attrs["n_spots"] == other.n_obs


def test_without_held_out_spots_all_are_scored(tissue):
    adata = tissue.copy()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=4)
    model.train(max_epochs=1, train_size=1, accelerator="cpu", enable_progress_bar=False)
    attrs = model.get_masked_recovery().attrs
    assert attrs["spots"] == "trained on" and attrs["n_spots"] == adata.n_obs


def test_spots_of_an_earlier_training_are_not_held_out():
    names, sizes = pd.Index(["a", "b", "c", "d"]), np.array([10.0, 20, 30, 40])
    first = make_record(names, sizes, np.array([True, True, False, False]), None)
    second = make_record(names, sizes, np.array([True, False, True, False]), first)
    assert second["held_out"].tolist() == [True, False, False, False]


def test_an_unknown_word_for_indices_is_rejected(model):
    with pytest.raises(ValueError, match="indices='every' is not known; it is one of 'all'"):
        model.get_masked_recovery(indices="every")
