"""Genes by their mean and standard deviation within the section, and the network that begins and ends in good order."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch

import sagefm
from sagefm.data import Normalization, Units, section_units
from sagefm.module import MaskedCenterModule

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
G = 12


def normalization(**moments: np.ndarray) -> Normalization:
    return Normalization("size", 100.0, np.full(G, 1 / G), **moments)


def module(n_hidden: int = 16, n_latent: int = 4, **kwargs: object) -> MaskedCenterModule:
    settings = {"conv": "sage", "dropout_rate": 0.0, "mask_fraction": 0.3, "scale_genes": True} | kwargs
    return MaskedCenterModule(normalization(), [G, n_hidden, n_latent], **settings)


def test_units_are_means_and_deviations_of_a_section_steadied_by_training():
    rng = np.random.default_rng(0)
    values = rng.gamma(2, size=(5000, G)).astype(np.float32)
    section = np.repeat([0, 1], [4990, 10])
    prior_mean, prior_scale = np.full(G, 9.0), np.full(G, 3.0)
    every = np.ones(G, dtype=bool)
    units = section_units(
        normalization(gene_mean=prior_mean, gene_scale=prior_scale), section, [(np.arange(5000), values, every)]
    )
    large, small = values[:4990], values[4990:]
    np.testing.assert_allclose(units.mean[0], large.mean(0), atol=0.06)
    np.testing.assert_allclose(units.scale[0], np.hypot(large.std(0), 0.4), atol=0.06)
    np.testing.assert_allclose(units.mean[1], (small.sum(0) + 30 * 9) / 40, rtol=1e-5)
    np.testing.assert_allclose(units.scale[1], np.sqrt((10 * small.var(0) + 30 * 9) / 40 + 0.16), rtol=1e-5)


def test_pieces_sparse_or_dense_give_the_same_units():
    rng = np.random.default_rng(1)
    values = rng.poisson(1, size=(40, G)).astype(np.float32)
    constants = normalization(gene_mean=np.ones(G), gene_scale=np.ones(G))
    section, visible = np.arange(40) % 3, rng.random(G) < 0.7
    values *= visible
    pieces = [(rows, values[rows], np.tile(visible, (len(rows), 1))) for rows in np.array_split(np.arange(40), 4)]
    whole = section_units(constants, section, [(np.arange(40), sp.csr_matrix(values), visible)])
    parts = section_units(constants, section, pieces)
    np.testing.assert_allclose(whole.mean, parts.mean, rtol=1e-6)
    np.testing.assert_allclose(whole.scale, parts.scale, rtol=1e-6)
    assert (whole.mean[:, ~visible] == 1).all() and np.allclose(whole.scale[:, ~visible], np.hypot(1, 0.4))


def test_standardised_values_are_restored_and_hidden_ones_stand_at_the_mean():
    units = Units(torch.rand(1, G), torch.rand(1, G) + 0.5)
    values, visible = torch.rand(7, G), torch.rand(7, G) < 0.5
    standard = units.standardize(values, visible)
    assert (standard[~visible] == 0).all()
    torch.testing.assert_close(units.restore(standard)[visible], values[visible])
    torch.testing.assert_close(units.restore(standard)[~visible], units.mean.expand(7, -1)[~visible])
    assert torch.equal(Units().standardize(values, visible), values * visible) and Units().restore(values) is values


def test_a_shift_and_a_stretch_of_a_section_change_its_embedding_little():
    def embedded(factor: np.ndarray | int) -> np.ndarray:
        section = sagefm.datasets.simulated_tissue(16, 16, n_genes=150)
        section.X = sp.csr_matrix(section.X.multiply(factor))
        model.get_latent_representation(section)
        return section.obsm["X_sagefm"]

    tissue = sagefm.datasets.simulated_tissue(16, 16, n_genes=150)
    sagefm.SAGEFM.setup_anndata(tissue)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_latent=4)
    model.train(max_epochs=5, train_size=1, **QUIET)
    # Every other gene is caught three times as well: to raw values that is a shift, to standardised ones little.
    changed = embedded(np.where(np.arange(150) % 2, 3, 1)[None])
    for before, after in zip(embedded(1).T, changed.T, strict=True):
        assert np.corrcoef(before, after)[0, 1] > 0.9


@pytest.mark.parametrize("n_hidden", [8, 9, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_begins_as_a_linear_projection_on_components(n_hidden, dtype):
    torch.manual_seed(0)
    components = torch.linalg.qr(torch.randn(G, 4))[0].T
    deviation = torch.tensor([4.0, 3.0, 2.0, 1.0])
    network = module(n_hidden=n_hidden).eval()
    network.start_from(components.to(dtype), deviation.to(dtype))
    center, neighbors = torch.randn(5, G), torch.randn(5, G)
    scores = (center + 3 * neighbors) @ components.T / deviation
    torch.testing.assert_close(network.encoder(center, neighbors, torch.ones(5, 1)), scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.decoder.weight, 0.13 * (deviation[:, None] * components).T)


@pytest.mark.parametrize("kwargs", [{"conv": "gcn"}, {"n_hidden": 6}])
def test_where_it_cannot_begin_so_it_begins_as_it_was(kwargs):
    network = module(**kwargs)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.start_from(torch.linalg.qr(torch.randn(G, 4))[0].T, torch.ones(4))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_settling_changes_no_prediction_and_makes_distances_those_of_profiles(conv):
    torch.manual_seed(0)
    network = module(conv=conv).eval()
    inputs = torch.randn(30, G), torch.randn(30, G), torch.full((30, 1), 6.0)
    before = network.decoder(network.encoder(*inputs))
    network.settle()
    latent = network.encoder(*inputs)
    after = network.decoder(latent)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    ratio = torch.pdist(after) / torch.pdist(latent)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), atol=1e-4, rtol=1e-4)


def test_as_many_latent_dimensions_as_genes_are_settled():
    network = module(n_latent=G)
    network.settle()
    squares = network.decoder.weight.T @ network.decoder.weight
    torch.testing.assert_close(squares, squares[0, 0] * torch.eye(G))


@pytest.mark.parametrize("kwargs", [{"scale_genes": False}, {"n_latent": G + 1}], ids=["raw", "few genes"])
def test_where_it_cannot_settle_it_stays_as_it_was(kwargs):
    network = module(**kwargs)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.settle()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_training_ends_with_the_weights_of_the_lowest_validation_loss(adata: ad.AnnData):
    sagefm.SAGEFM.setup_anndata(adata)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=12, plan_kwargs={"lr": 3e-2}, **QUIET)  # soon too far
    losses = model.history["validation_loss"]["validation_loss"].astype(float)
    assert losses.iloc[-1] > losses.min()
    model.trainer.validate(model.trainer.lightning_module, model.trainer.datamodule, verbose=False)
    assert float(model.trainer.callback_metrics["validation_loss"]) == pytest.approx(losses.min(), rel=1e-3)
