"""`get_gene_influence`: attributions agree with autograd through the whole network, and add up."""

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import sagefm
from sagefm.data import registered_spots


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    """A section with an isolated spot: its neighbours were removed."""
    adata = sagefm.datasets.simulated_tissue(14, 14, n_genes=150, n_interactions=2, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    keep = np.ones(adata.n_obs, dtype=bool)
    keep[adata.obsp["spatial_connectivities"][20].indices] = False
    adata = adata[keep].copy()
    sagefm.SAGEFM.setup_anndata(adata)
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < 40, "left", "right")
    return adata


@pytest.fixture(scope="module", params=["sage", "gcn"])
def model(tissue, request) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, conv=request.param, n_hidden=32, n_latent=8)
    model.train(max_epochs=30, enable_progress_bar=False, accelerator="cpu", plan_kwargs={"lr": 1e-2})
    return model


def attributions_by_autograd(model, target, steps) -> tuple[np.ndarray, np.ndarray]:
    """Attribute dense inputs through the whole network; return (spots, genes) for spots and for neighbours."""
    module, t = model.module.eval(), model.genes.get_loc(target)
    spots = registered_spots(model.adata_manager, model.module.normalization)
    units = spots.units.of(np.arange(spots.n_obs))
    inputs = spots.inputs(np.arange(spots.n_obs), units)
    graph = torch.from_numpy(model.adata.obsp["spatial_connectivities"].toarray()).float()
    n = graph.sum(dim=1, keepdim=True)
    center = inputs.clone()
    center[:, t] = 0
    neighbors = torch.where(n > 0, graph @ inputs / n.clamp_min(1), center)
    totals = [torch.zeros_like(center), torch.zeros_like(center)]
    for step, weight in steps:
        point = [(step * x).requires_grad_() for x in (center, neighbors)]
        latent = module.encoder.after_first_layer(module.encoder.conv1.closed_form(*point, n))
        predicted = units.restore(module.decoder(latent))[:, t]
        for total, gradient in zip(totals, torch.autograd.grad(predicted.sum(), point), strict=True):
            total += weight * gradient
    return tuple((total * x).detach().numpy() for total, x in zip(totals, (center, neighbors), strict=True))


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_attributions_agree_with_autograd_on_dense_input(model, method):
    places, weights = np.polynomial.legendre.leggauss(4)
    steps = [(1.0, 1.0)] if method == "gradient" else zip((places + 1) / 2, weights / 2, strict=True)
    influence = model.get_gene_influence("TGT1", method=method, n_steps=4).set_index("gene").loc[model.genes]
    found = attributions_by_autograd(model, "TGT1", steps)
    for column, expected in zip(["center", "neighbors"], found, strict=True):
        np.testing.assert_allclose(influence[column], expected.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(influence[f"{column}_size"], np.abs(expected).mean(axis=0), atol=1e-5)
    assert influence["neighbors_size"].max() > 1e-3


def test_integrated_attributions_add_up_to_the_prediction_minus_the_baseline(model):
    table = model.get_gene_influence(["TGT1", "TGT2"], n_steps=200)
    size = table.groupby("target")[["center_size", "neighbors_size"]].sum().sum(axis=1)
    for total in table.attrs["totals"]:
        added = table.loc[table["target"] == total["target"], ["center", "neighbors"]].to_numpy().sum()
        assert added == pytest.approx(total["prediction"] - total["baseline"], abs=0.002 * float(size[total["target"]]))
        error = total["prediction"] - total["baseline"] - added
        assert total["completeness_error"] == pytest.approx(error, abs=1e-4)


def test_the_weighted_mean_over_groups_is_the_mean_over_all_spots(model, tissue):
    whole = model.get_gene_influence("TGT1", n_steps=2).set_index("gene")
    halves = model.get_gene_influence("TGT1", n_steps=2, groupby="half").set_index(["group", "gene"])
    weight = tissue.obs["half"].value_counts(normalize=True)
    for column in ("center", "neighbors", "center_size", "neighbors_size"):
        mean = sum(weight[half] * halves.loc[half, column] for half in weight.index)
        np.testing.assert_allclose(mean[whole.index], whole[column], atol=1e-6)


def test_the_target_is_masked_in_the_spot_and_rows_are_sorted_by_size(model):
    table = model.get_gene_influence("TGT1", n_steps=2)
    size = table[["center_size", "neighbors_size"]].max(axis=1)
    assert size.is_monotonic_decreasing
    assert table.set_index("gene").loc["TGT1", "center"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": "TGT9"}, KeyError, "did you mean"),
        ({"targets": "TGT1", "method": "shap"}, ValueError, "it is one of 'gradient', 'integrated'"),
        ({"targets": "TGT1", "n_steps": 0}, ValueError, "1 or more"),
        ({"targets": "TGT1", "groupby": "domain"}, KeyError, "not a column of obs"),
    ],
)
def test_wrong_arguments_are_named(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.get_gene_influence(**arguments)
