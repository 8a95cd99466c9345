"""Perturbation: exact compared with brute force, correct on planted effects, clear about invalid input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy.stats import false_discovery_control

import sagefm
from sagefm.data import Spots, registered_spots


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    """A section with two isolated spots."""
    adata = sagefm.datasets.simulated_tissue(14, 14, n_genes=150, n_interactions=2, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    keep = np.ones(adata.n_obs, dtype=bool)
    alone = [20, 70]
    keep[np.unique(adata.obsp["spatial_connectivities"][alone].indices)] = False
    keep[alone] = True
    adata = adata[keep].copy()
    sagefm.SAGEFM.setup_anndata(adata)
    assert (adata.obsp["spatial_connectivities"].sum(axis=1) == 0).sum() == 2
    return adata


def trained(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, **{"n_hidden": 32, "n_latent": 8, **kwargs})
    model.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu", plan_kwargs={"lr": 1e-2})
    return model


@pytest.fixture(
    scope="module",
    params=[
        {"conv": "sage"},
        {"conv": "gcn", "normalization": "none", "scale_genes": False},
        {"conv": "gcn", "n_hidden": [32, 16]},
    ],
    ids=["sage", "gcn-raw", "gcn-deep"],
)
def model(tissue: ad.AnnData, request: pytest.FixtureRequest) -> sagefm.SAGEFM:
    """A model with perturbed weights, so that every gene matters and no prediction is rectified to zero."""
    model = trained(tissue, **request.param)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.module.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=generator)
        model.module.decoder.bias += 3
    return model


@pytest.fixture(scope="module")
def sage(tissue: ad.AnnData) -> sagefm.SAGEFM:
    return trained(tissue)


def model_spots(model: sagefm.SAGEFM) -> Spots:
    return registered_spots(model.adata_manager, model.module.normalization)


def isolated(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.obsp["spatial_connectivities"].sum(axis=1)).ravel() == 0


@torch.inference_mode()
def brute_force(model, adata, source, target, value, *, where="neighbors", mask=True) -> np.ndarray:
    """Set the source in a copy of the log-scale matrix for every spot in turn, and run the whole network.

    `value` maps the measured values of the source to the new ones.
    """
    module, spots = model.module.eval(), model_spots(model)
    logged = spots.log(np.arange(adata.n_obs)).toarray()
    graph = adata.obsp["spatial_connectivities"].toarray() > 0
    s, t = (model.genes.get_indexer(name.split("_")) for name in (source, target))
    new = logged.copy()
    new[:, s] = value(logged[:, s])
    predicted = []
    units = spots.units.of(np.arange(adata.n_obs))
    nothing = torch.zeros(len(model.genes), dtype=torch.bool)
    for spot in range(adata.n_obs):
        center = (new if where in ("self", "both") else logged)[[spot]]
        around = (new if where in ("neighbors", "both") else logged)[graph[spot]]
        mean = around.mean(axis=0, keepdims=True) if len(around) else np.zeros_like(center)
        center, mean = (units.standardize(torch.from_numpy(x).float(), nothing) for x in (center, mean))
        if mask:
            center = center.clone()
            center[:, t] = 0
        latent = module.encoder(center, mean, torch.tensor([[float(len(around))]]))
        predicted.append(float(module.decode_unrectified(latent, units)[0, t].mean()))
    return np.array(predicted)


@pytest.mark.parametrize("where", ["neighbors", "self", "both"])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("pair", [("LIG1", "TGT1"), ("LIG1_LIG2", "TGT2_GENE0003")])
def test_fast_path_is_exact(model, tissue, where, mask, pair):
    alone = isolated(tissue)
    for level in ([0, 1.5], {"fold_change": [0, 3]}):
        response = model.get_dose_response(*pair, levels=level, where=where, mask_targets=mask)
        changes = (
            [lambda x, v=v: np.full_like(x, v) for v in level]
            if isinstance(level, list)
            else [lambda x, v=v: np.log1p(v * np.expm1(x)) for v in level["fold_change"]]
        )
        for column, change in enumerate(changes):
            expected = brute_force(model, tissue, *pair, change, where=where, mask=mask)
            if where == "neighbors":
                assert response[alone].isna().all(axis=None)
                expected[alone] = np.nan
            np.testing.assert_allclose(response.iloc[:, column], expected, atol=1e-5, rtol=0)
        assert np.abs(response.iloc[:, 1] - response.iloc[:, 0]).max() > 1e-3


def test_effects_are_read_before_negative_predictions_are_set_to_zero(model):
    bias = model.module.decoder.bias
    with torch.no_grad():
        bias -= 100  # every prediction of the counts' scale would be zero
    response = model.get_dose_response("LIG1", "TGT1").dropna()
    with torch.no_grad():
        bias += 100
    assert (response < 0).all(axis=None) and (response.iloc[:, -1] != response.iloc[:, 0]).all()


def test_a_response_from_minimum_to_maximum_is_close_to_a_straight_line(sage):
    response = sage.get_dose_response("LIG1", "TGT1").mean()
    assert np.corrcoef(response.index.to_numpy(float), response)[0, 1] ** 2 > 0.99


def test_dose_response_averages_to_the_table(model, tissue):
    row = model.perturb("LIG1", "TGT1", n_controls=0).iloc[0]
    response = model.get_dose_response("LIG1", "TGT1").dropna()
    effect, mean, dose = response.iloc[:, -1] - response.iloc[:, 0], response.mean(), response.columns.to_numpy()
    assert row["n_spots"] == len(response) == tissue.n_obs - isolated(tissue).sum()
    assert row["effect"] == pytest.approx(effect.mean(), abs=1e-6)
    assert row["spread"] == pytest.approx(effect.std(ddof=1), abs=1e-5)
    assert row["slope"] == pytest.approx(np.polyfit(dose, mean, 1)[0], abs=1e-6)
    spots = model_spots(model)
    logged = spots.log(np.arange(tissue.n_obs)).toarray()
    source, target = (logged[:, model.genes.get_loc(gene)] for gene in ("LIG1", "TGT1"))
    np.testing.assert_allclose(dose, np.linspace(source.min(), source.max(), 5), rtol=1e-5)
    assert row["scaled_effect"] == pytest.approx(row["effect"] / target.std(), rel=1e-4)
    nearby = (spots.mean_operator @ source)[~isolated(tissue)]
    expected = np.corrcoef(nearby, target[~isolated(tissue)])[0, 1]
    assert row["neighbor_correlation"] == pytest.approx(expected, abs=1e-5)


def test_reverse_effect_is_the_effect_of_the_swapped_pair(sage):
    pair = sage.perturb("LIG1", "TGT1", n_controls=0).iloc[0]
    swapped = sage.perturb("TGT1", "LIG1", n_controls=0).iloc[0]
    for forward, reverse in (("effect", "reverse_effect"), ("scaled_effect", "scaled_reverse_effect")):
        assert pair[reverse] == pytest.approx(swapped[forward], abs=1e-7)


def test_a_pair_does_not_depend_on_the_other_pairs(sage):
    alone = sage.perturb("LIG1", "TGT2", n_controls=10)
    among = sage.perturb(["LIG2", "LIG1"], ["TGT1", "TGT2", "GENE0001"], n_controls=10)
    among = among[(among["source"] == "LIG1") & (among["target"] == "TGT2")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.drop(columns="q"), among.drop(columns="q"), atol=1e-6)


def test_repeats_and_batches_agree(sage):
    table = sage.perturb("LIG1", ["TGT1", "TGT2"], n_controls=10)
    pd.testing.assert_frame_equal(table, sage.perturb("LIG1", ["TGT1", "TGT2"], n_controls=10))
    pd.testing.assert_frame_equal(table, sage.perturb("LIG1", ["TGT1", "TGT2"], n_controls=10, batch_size=7), atol=1e-5)
    assert table["q"].tolist() == false_discovery_control(table["p"]).tolist()


def test_complex_target_is_the_mean_of_its_parts(sage):
    whole = sage.get_dose_response("LIG1", "TGT1_TGT2", mask_targets=False)
    parts = [sage.get_dose_response("LIG1", target, mask_targets=False) for target in ("TGT1", "TGT2")]
    np.testing.assert_allclose(whole, sum(parts) / 2, atol=1e-6)


def test_groups_average_to_the_whole(sage, tissue):
    tissue.obs["half"] = np.where(np.arange(tissue.n_obs) < 40, "a", "b")
    halves = sage.perturb("LIG1", "TGT1", groupby="half", n_controls=5)
    assert halves["group"].tolist() == ["a", "b"] and halves["p"].notna().all()
    whole = sage.perturb("LIG1", "TGT1", n_controls=0).iloc[0]
    assert np.average(halves["effect"], weights=halves["n_spots"]) == pytest.approx(whole["effect"], abs=1e-6)


def test_group_of_one_spot_has_an_effect_and_no_spread(sage, tissue):
    spot = np.flatnonzero(~isolated(tissue))[0]
    tissue.obs["one"] = pd.Categorical(np.where(np.arange(tissue.n_obs) == spot, "alone", None))
    row = sage.perturb("LIG1", "TGT1", groupby="one", n_controls=5).iloc[0]
    response = sage.get_dose_response("LIG1", "TGT1").iloc[spot]
    assert row["n_spots"] == 1 and row["effect"] == pytest.approx(response.iloc[-1] - response.iloc[0], abs=1e-6)
    assert np.isnan(row["spread"]) and np.isnan(row["neighbor_correlation"])
    assert 0 < row["p"] <= 1


def test_spots_of_one_section_do_not_depend_on_other_sections():
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150, n_interactions=2, n_sections=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model, first = trained(adata), np.flatnonzero(adata.obs["sample"] == adata.obs["sample"].iloc[0])
    for mask in (True, False):
        part, whole = (
            model.get_dose_response("LIG1", "TGT1_TGT2", levels=[0, 1], indices=indices, mask_targets=mask)
            for indices in (first, None)
        )
        pd.testing.assert_frame_equal(part, whole.iloc[first], atol=1e-6, rtol=0)


def test_levels_on_every_scale(sage, tissue):
    measured = model_spots(sage).log(np.arange(tissue.n_obs)).toarray()[:, sage.genes.get_loc("LIG1")]
    for levels, expected in (
        ([0, 1], [0, 1]),
        ({"value": [1, 0]}, [1, 0]),
        ({"percentile": [10, 90]}, np.percentile(measured, [10, 90])),
        ({"fold_change": [1, 2]}, [measured.mean(), np.log1p(2 * np.expm1(measured)).mean()]),
    ):
        columns = sage.get_dose_response("LIG1", "TGT1", levels=levels).columns
        np.testing.assert_allclose(columns, expected, rtol=1e-5)
    up, down = (sage.perturb("LIG1", "TGT1", levels=levels, n_controls=0) for levels in ([0, 1], [1, 0]))
    assert up["effect"].item() == pytest.approx(-down["effect"].item(), abs=1e-7)
    assert up["slope"].item() == pytest.approx(down["slope"].item(), abs=1e-7)


def test_source_that_does_not_vary_has_no_effect(tissue):
    adata = tissue.copy()
    del adata.uns["_scvi_uuid"]  # otherwise scvi-tools mistakes the copy for the original
    counts = adata.X.tolil()
    counts[:, adata.var_names.get_loc("GENE0004")] = 0
    adata.X = counts.tocsr()
    sagefm.SAGEFM.setup_anndata(adata)
    table = trained(adata).perturb(["GENE0004", "LIG1"], "TGT1", n_controls=5)
    assert table[["effect", "slope", "p", "q"]].isna().all(axis=1).tolist() == [True, False]


def test_source_missing_from_the_panel_has_no_effect(sage, tissue):
    fewer = tissue[:, tissue.var_names != "LIG2"].copy()
    table = sage.perturb(["LIG2", "LIG1"], "TGT1", n_controls=5, adata=fewer)
    assert table[["effect", "slope", "control_percentile", "p", "q"]].isna().all(axis=1).tolist() == [True, False]


def test_another_section_and_part_of_a_section(sage, tissue):
    other = tissue.copy()[:, ::-1].copy()
    pd.testing.assert_frame_equal(
        sage.perturb("LIG1", "TGT1", n_controls=0), sage.perturb("LIG1", "TGT1", n_controls=0, adata=other), atol=1e-6
    )
    chosen = np.arange(tissue.n_obs) % 3 == 0
    part = sage.get_dose_response("LIG1", "TGT1", indices=chosen)
    pd.testing.assert_frame_equal(part, sage.get_dose_response("LIG1", "TGT1")[chosen], atol=1e-6)


def test_planted_effects_are_found():
    """A short form of the benchmark, which has more pairs and seeds: all signs, and larger effects than controls."""
    adata = sagefm.datasets.simulated_tissue(32, 32, n_genes=300, n_interactions=3, n_niches=1, seed=0)
    sagefm.SAGEFM.setup_anndata(adata)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    planted = adata.uns["simulated_tissue"]["interactions"]
    table = model.perturb(pairs=planted, n_controls=30)
    assert (np.sign(table["effect"]) == planted["sign"].to_numpy()).all()
    assert table["control_percentile"].median() > 90


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": "LIG1", "targets": "LIG1"}, ValueError, "cannot be set and predicted at once"),
        ({"sources": "LIG1_TGT1", "targets": "TGT1"}, ValueError, "shares a gene"),
        ({"sources": "LIG9", "targets": "TGT1"}, KeyError, "did you mean"),
        ({"sources": "LIG1_LIG9", "targets": "TGT1"}, KeyError, "'LIG9'"),
        ({"pairs": pd.DataFrame({"source": [], "target": []})}, ValueError, "empty"),
        ({"pairs": pd.DataFrame({"ligand": ["A"]})}, KeyError, "no column 'source'"),
        ({"pairs": pd.DataFrame({"source": ["LIG1"], "target": [None]})}, ValueError, "have no source"),
        ({"pairs": [("LIG1", "TGT1")]}, TypeError, "DataFrame"),
        ({}, ValueError, "Pass either `sources` and `targets`"),
        ({"sources": "LIG1", "targets": []}, ValueError, "`targets` is empty"),
        ({"sources": "LIG1", "targets": "TGT1", "pairs": pd.DataFrame()}, ValueError, "not both"),
        ({"levels": 1}, ValueError, "at least 2"),
        ({"levels": [1.0]}, ValueError, "equal ends"),
        ({"levels": [-1, 2]}, ValueError, "between 0 and inf"),
        ({"levels": [0, np.nan]}, ValueError, "finite"),
        ({"levels": {"percentile": [0, 101]}}, ValueError, "between 0 and 100"),
        ({"levels": {"quantile": [0, 1]}}, ValueError, "one key, one of value"),
        ({"levels": "high"}, ValueError, "number of levels"),
        ({"where": "nearby"}, ValueError, "'neighbors', 'self', 'both'"),
        ({"n_controls": -1}, ValueError, "0 or more"),
        ({"max_controls": 0.5}, ValueError, "max_controls=0.5 must be a whole number"),
        ({"groupby": "domain"}, KeyError, "not a column of obs"),
    ],
)
def test_invalid_input_is_refused(sage, arguments, error, message):
    pair = {} if {"sources", "pairs"} & set(arguments) or not arguments else {"sources": "LIG1", "targets": "TGT1"}
    with pytest.raises(error, match=message):
        sage.perturb(**pair, **arguments)


def test_self_pairs_of_a_grid_are_left_out_and_duplicates_evaluated_once(sage):
    grid = sage.perturb(["LIG1", "TGT1"], ["TGT1", "LIG1"], n_controls=0)
    assert grid[["source", "target"]].to_numpy().tolist() == [["LIG1", "TGT1"], ["TGT1", "LIG1"]]
    twice = pd.DataFrame({"source": ["LIG1"] * 2, "target": ["TGT1"] * 2})
    assert len(sage.perturb(pairs=twice, n_controls=0)) == 1


def test_a_level_above_all_measured_values_warns(sage):
    with pytest.warns(UserWarning, match="extrapolates"):
        sage.perturb("LIG1", "TGT1", levels=[0, 50], n_controls=0)


def test_only_isolated_spots_is_an_error_for_neighbors_only(sage, tissue):
    with pytest.raises(ValueError, match="has neighbours to perturb"):
        sage.perturb("LIG1", "TGT1", indices=isolated(tissue), n_controls=0)
    assert sage.perturb("LIG1", "TGT1", indices=isolated(tissue), where="self", n_controls=0)["n_spots"].item() == 2


def test_untrained_model_is_refused(tissue):
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.SAGEFM(tissue).perturb("LIG1", "TGT1")
