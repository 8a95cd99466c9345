"""Responses of signed target sets: consistent with single pairs, calibrated for random sources, clear about input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import sagefm
from sagefm.data import registered_spots
from sagefm.model.perturbation import (
    Counterfactual,
    Levels,
    SectionGenes,
    SetScores,
    TargetSet,
    random_sources,
    read_net,
    regulators_of,
    target_set,
)


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    """Two sections, whose genes differ in scale."""
    adata = sagefm.datasets.simulated_tissue(14, 14, n_genes=220, n_sections=2, n_interactions=2, seed=3)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return adata


@pytest.fixture(scope="module")
def model(tissue: ad.AnnData) -> sagefm.SAGEFM:
    model = sagefm.SAGEFM(tissue, n_hidden=32, n_latent=8)
    model.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu", plan_kwargs={"lr": 1e-2})
    return model


@pytest.fixture(scope="module")
def section(model) -> SectionGenes:
    return SectionGenes.of(registered_spots(model.adata_manager, model.module.normalization))


@pytest.fixture(scope="module")
def net(section) -> pd.DataFrame:
    """Two sources with 20 expressed targets each, a quarter of which fall; as decoupler, with another column."""
    expressed = section.names[(section.detected > 0.1) & ~section.names.str.contains("LIG|TGT")]
    targets = expressed[:40]
    weight = np.where(np.arange(40) % 4 == 0, -1.0, 1.0) * np.linspace(10, 1, 40)
    return pd.DataFrame({"source": ["LIG1", "LIG2"] * 20, "target": targets, "weight": weight, "padj": 0.01})


def test_effects_are_those_of_single_pairs(model, net):
    for where in ("self", "neighbors"):
        response = model.get_pathway_response(net, where=where, n_controls=0).set_index("source")
        for source, rows in net.groupby("source"):
            pairs = model.perturb(source, rows["target"].tolist(), levels=2, where=where, n_controls=0)
            expected = pairs["scaled_effect"].to_numpy() * np.sign(rows["weight"].to_numpy())
            assert response.loc[source, "effect"] == pytest.approx(expected.mean(), rel=1e-4, abs=1e-8)
            assert response.loc[source, "sign_agreement"] == pytest.approx((expected > 0).mean())
            best = rows["target"].to_numpy()[np.argsort(-expected)][:5]
            assert response.loc[source, "leading_targets"] == ", ".join(best)
            assert response.loc[source, "n_targets"] == len(rows)
        assert response[["p", "q"]].isna().all(axis=None)


@pytest.mark.parametrize("arguments", [{}, {"conv": "gcn"}, {"conv": "gcn", "n_hidden": [16, 8]}], ids=str)
@pytest.mark.parametrize("where", ["self", "neighbors", "both"])
def test_mean_changes_are_those_of_unmasked_predictions(tissue, arguments, where):
    """Also over sections with different scales of genes, and in groups."""
    model = sagefm.SAGEFM(tissue, **{"n_hidden": 16, "n_latent": 4, **arguments})
    model.is_trained_ = True
    rows = np.arange(3, tissue.n_obs, 2)
    groups = np.random.default_rng(0).random((2, len(rows))).astype(np.float32)
    spots = registered_spots(model.adata_manager, model.module.normalization)
    genes, source = np.array([9, 4, 7]), np.array([20, 30])
    counterfactual = Counterfactual(model.module, spots, rows, np.array([4, 7, 9, 20, 30]), where, mask_targets=False)
    found = counterfactual.mean_changes(source, Levels.parse(2), genes, groups)
    name = "_".join(model.genes[source])
    for number, gene in enumerate(model.genes[genes]):
        response = model.get_dose_response(name, gene, levels=2, where=where, mask_targets=False).iloc[rows]
        change = (response.iloc[:, 1] - response.iloc[:, 0]).to_numpy()
        np.testing.assert_allclose(found[:, number], groups @ change, atol=1e-4, rtol=1e-3)


def test_scores_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    signs, controls = np.repeat([1.0, -1.0], [6, 4]), np.repeat([1.0, -1.0], [18, 12])
    targets = TargetSet(np.array([0]), np.arange(1, 11), signs, np.arange(11, 41), controls, np.arange(11))
    effects = rng.normal(size=(3, 40)).round(1)  # with ties
    scores = SetScores.of(effects, targets)
    for row, auroc in zip(effects, scores.auroc, strict=True):
        expected = row * np.concatenate([signs, controls])
        assert auroc == pytest.approx(roc_auc_score(np.arange(40) < 10, expected))
    np.testing.assert_allclose(scores.effect, (effects[:, :10] * signs).mean(axis=1))
    np.testing.assert_allclose(scores.control_sign_agreement, (effects[:, 10:] * controls > 0).mean(axis=1))
    np.testing.assert_allclose(SetScores.of(-effects, targets).auroc, 1 - scores.auroc)


def test_matched_genes_are_close_distinct_and_not_of_the_set(section):
    expressed = np.flatnonzero(section.detected > 0.1)
    rows = pd.DataFrame({"target": section.names[expressed[:8]], "weight": 1.0})
    found = target_set(expressed[8:9], rows, section, None)
    assert len(found.controls) == 24 == len(np.unique(found.controls))
    assert not set(found.controls) & set(found.excluded)
    ratio = np.log(section.mean[found.controls] / np.tile(section.mean[found.targets], 3))
    anyone = np.abs(np.log(section.mean[expressed][:, None] / section.mean[found.targets]))
    assert np.abs(ratio).mean() < np.median(anyone) / 2


def test_strongest_targets_are_kept_and_ties_go_to_the_most_expressed(section):
    expressed = np.flatnonzero(section.detected > 0.1)
    rows = pd.DataFrame({"target": section.names[expressed[:9]], "weight": [5, -9, *[2] * 7]})
    found = target_set(expressed[9:10], rows, section, 5)
    ties = expressed[2:9][np.argsort(-section.mean[expressed[2:9]])][:3]
    assert found.targets.tolist() == [expressed[1], expressed[0], *ties]
    assert found.signs.tolist() == [-1, 1, 1, 1, 1]


def test_a_source_is_not_its_own_target_and_rare_genes_are_left_out(section):
    rare = np.flatnonzero((section.detected > 0) & (section.detected < 0.05))[:1]
    expressed = np.flatnonzero(section.detected > 0.1)
    members = np.concatenate([expressed[:8], rare])
    rows = pd.DataFrame({"target": [*section.names[members], "NOT-THERE"], "weight": 1.0})
    found = target_set(expressed[:1], rows, section, None)
    assert sorted(found.targets) == expressed[1:8].tolist() and rare[0] in found.excluded
    assert target_set(expressed[:1], rows[:3], section, None) == "only 2 targets are expressed"


def test_a_planted_response_is_found(tissue, section):
    """A gene that the network passes on to a set of targets, and to no other gene."""
    model = sagefm.SAGEFM(tissue, n_hidden=16, n_latent=4)
    model.is_trained_ = True
    expressed = np.flatnonzero(section.detected > 0.1)
    source, targets = expressed[0], expressed[1:13]
    signs = np.where(np.arange(12) < 4, -1.0, 1.0)
    with torch.no_grad():
        for weights in model.module.parameters():
            weights *= 0.01
        first, second = model.module.encoder.conv1.lin_r.weight, model.module.encoder.layer(2).weight
        first[0] = second[0] = 0
        first[0, source] = second[0, 0] = 1
        model.module.decoder.weight[targets, 0] = torch.from_numpy(signs).float()
    net = pd.DataFrame({"source": "planted", "target": section.names[targets], "weight": signs})
    regulators = {"planted": section.names[source]}
    row = model.get_pathway_response(net, regulators=regulators, n_controls=40).iloc[0]
    assert row["auroc"] == row["sign_agreement"] == 1 and row["p"] == row["q"] == pytest.approx(1 / 41)
    assert row["effect"] > 10 * abs(row["control_effect"])
    wrong = model.get_pathway_response(net.assign(weight=-signs), regulators=regulators, n_controls=40).iloc[0]
    assert wrong["auroc"] == wrong["sign_agreement"] == 0 and wrong["p"] == 1


def test_p_holds_its_level_for_random_sources(model, section):
    """Sets of genes that are expressed together as well as random ones."""
    rng = np.random.default_rng(0)
    expressed = section.names[section.detected > 0.2]
    names = [f"set {number}" for number in range(200)]
    sets = {name: rng.choice(expressed, 15, replace=False).tolist() for name in names}
    regulators = {name: rng.choice(expressed.difference(genes)) for name, genes in sets.items()}
    p = model.get_pathway_response(sets, regulators=regulators, n_controls=39)["p"]
    assert 0.005 <= (p <= 0.05).mean() <= 0.105 and 0.4 < p.mean() < 0.6


def test_random_sources_match_each_regulator_and_differ_from_each_other(section):
    expressed = np.flatnonzero(section.detected > 0.1)
    rows = pd.DataFrame({"target": section.names[expressed[:8]], "weight": 1.0})
    found = target_set(expressed[[20, 21]], rows, section, None)
    sources = random_sources(found, section, 15)
    assert sources.shape == (15, 2) and not set(sources.ravel()) & set(found.excluded)
    assert all(len(np.unique(column)) == 15 for column in sources.T)


def test_groups_have_rows_of_their_own(model, net, tissue):
    tissue.obs["half"] = pd.Categorical(np.where(np.arange(tissue.n_obs) % 2, "odd", "even"))
    halves = model.get_pathway_response(net, groupby="half", n_controls=9)
    assert halves["group"].tolist() == ["even", "odd"] * 2 and halves["n_spots"].eq(tissue.n_obs // 2).all()
    whole = model.get_pathway_response(net, n_controls=0)
    by_source = halves.groupby("source", sort=False)["effect"].mean()
    np.testing.assert_allclose(by_source, whole["effect"], rtol=1e-3, atol=1e-8)
    assert halves["p"].between(0.1, 1).all() and halves["q"].notna().all()


def test_a_source_does_not_depend_on_the_others_and_repeats_agree(model, net):
    both = model.get_pathway_response(net, n_controls=19)
    alone = model.get_pathway_response(net, "LIG2", n_controls=19)
    pd.testing.assert_frame_equal(both[1:].reset_index(drop=True).drop(columns="q"), alone.drop(columns="q"))
    assert alone.attrs["regulators"] == {"LIG2": ["LIG2"]} and alone.attrs["where"] == "self"
    pd.testing.assert_frame_equal(both, model.get_pathway_response(net, n_controls=19, batch_size=7), atol=1e-5)


def test_sources_without_a_result_say_why(model, net, tissue):
    without = tissue[:, tissue.var_names != "LIG2"].copy()
    more = pd.concat([net, net[net["source"] == "LIG1"].assign(source="TGFb"), net[:3].assign(source="TGT1")])
    response = model.get_pathway_response(more, adata=without, n_controls=5).set_index("source")
    assert response["reason"].to_dict() == {
        "LIG1": "",
        "LIG2": "no counts of LIG2",
        "TGFb": "its regulator TGFB1 is not in the model",
        "TGT1": "only 3 targets are expressed",
    }
    assert response["auroc"].notna().tolist() == [True, False, False, False]


def test_a_regulator_whose_levels_are_equal_has_no_response(model, section, net):
    rare = section.names[(section.detected > 0) & (section.detected < 0.8)][0]
    targets = net["target"].drop_duplicates().drop(net.index[net["target"] == rare])[:12].tolist()
    response = model.get_pathway_response({rare: targets}, levels={"percentile": [0, 10]}, n_controls=5)
    assert response["reason"].tolist() == ["the levels of its regulator do not differ"]
    assert response[["auroc", "effect", "p", "q"]].isna().all(axis=None) and response["n_targets"].item() == 0


def test_regulators_are_given_or_the_gene_itself_or_those_of_progeny():
    genes = pd.Index(["TGFB1", "EGFR", "STAT1", "IFNG"])
    assert regulators_of("EGFR", {}, genes).tolist() == [1]
    assert regulators_of("TGFb", {}, genes).tolist() == [0]
    assert regulators_of("JAK-STAT", {"JAK-STAT": ["IFNG", "STAT1"]}, genes).tolist() == [3, 2]
    assert regulators_of("STAT1_IFNG", {}, genes).tolist() == [2, 3]
    assert regulators_of("a set", {}, genes) == "neither a gene of the model nor in `regulators`"


def test_a_net_is_read_as_decoupler_writes_it_and_without_weights():
    table = pd.DataFrame({"source": ["A", "A", "B"], "target": ["x", "x", "y"], "weight": [1, 1, 0], "padj": 0.1})
    assert read_net(table).to_numpy().tolist() == [["A", "x", 1.0]]
    assert read_net(table.drop(columns="weight"))["weight"].tolist() == [1, 1]
    assert read_net({"A": ["x", "y"]}).to_numpy().tolist() == [["A", "x", 1.0], ["A", "y", 1.0]]


@pytest.mark.parametrize(
    ("net", "arguments", "error", "message"),
    [
        ([("A", "x")], {}, TypeError, "columns 'source', 'target' and 'weight'"),
        (pd.DataFrame({"source": ["A"]}), {}, KeyError, "no column 'target'"),
        (pd.DataFrame({"source": ["A"], "target": [None]}), {}, ValueError, "empty"),
        ({}, {}, ValueError, "empty"),
        (pd.DataFrame({"source": "A", "target": ["x", "x"], "weight": [1, 2]}), {}, ValueError, "several weights"),
        (pd.DataFrame({"source": "A", "target": ["x"], "weight": ["high"]}), {}, ValueError, "not a number"),
        ({"A": ["x"]}, {"sources": "B"}, KeyError, "'B' is not a source"),
        ({"A": ["x"]}, {"sources": []}, ValueError, "`sources` is empty"),
        ({"A": ["x"]}, {}, ValueError, "Pass the genes to set"),
        ({"A": ["x"]}, {"regulators": {"A": "LIG9"}}, KeyError, "did you mean"),
        ({"LIG1": ["x"]}, {}, ValueError, "only 0 targets are expressed"),
        ({"LIG1": ["x"]}, {"n_targets": 2}, ValueError, "5 or more"),
        ({"LIG1": ["x"]}, {"n_controls": -1}, ValueError, "0 or more"),
        ({"LIG1": ["x"]}, {"where": "everywhere"}, ValueError, "where="),
    ],
)
def test_invalid_input_is_refused(model, net, arguments, error, message):
    with pytest.raises(error, match=message):
        model.get_pathway_response(net, **arguments)


def test_untrained_model_is_refused(tissue, net):
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.SAGEFM(tissue).get_pathway_response(net)


def test_a_level_above_all_measured_values_warns(model, net):
    with pytest.warns(UserWarning, match="extrapolates"):
        model.get_pathway_response(net, levels=[0, 50], n_controls=0)
