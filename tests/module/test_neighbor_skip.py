"""Weight of a gene's mean over the neighbours without a fit: formula, masked entries, noise."""

import numpy as np
import pytest
import scvi
import torch

import sagefm
from sagefm.model import random_masks
from sagefm.module import OnePass, neighbor_skip, section_decoder


@pytest.fixture(scope="module")
def tissue():
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    return adata


@pytest.fixture(scope="module")
def model(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=64, n_latent=16)
    model.train(max_epochs=5, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture
def settings(model):
    before = model.module.section_fit
    yield before
    model.module.section_fit = before


def skip_of(model, adata, mask):
    spots = model._read(adata)[1]
    one_pass = OnePass(model.module, spots, 100, spots.units_without(mask))
    return neighbor_skip(model.module, one_pass, np.arange(spots.n_obs), mask).numpy()


def test_weight_is_the_ridge_slope_of_the_spot_on_its_neighbors(model, tissue, settings):
    spots, mask = model._read(tissue)[1], np.zeros(tissue.shape, dtype=bool)
    one_pass, rows = OnePass(model.module, spots), np.arange(spots.n_obs)
    x, means = (v.double().numpy() for v in (one_pass.inputs(rows, mask)[0], one_pass.neighborhood_inputs(rows)))
    x, means = x - x.mean(0), means - means.mean(0)
    slope = (x * means).sum(0) / ((means**2).sum(0) + settings.skip_penalty)
    expected = settings.skip_share * slope.clip(0, 1)
    np.testing.assert_allclose(skip_of(model, tissue, mask), expected, atol=1e-5)
    assert 0 < expected.max() < settings.skip_share


def test_masked_entries_do_not_change_it(model, tissue):
    mask = random_masks([1], tissue.n_vars, 0.3)[0][np.arange(tissue.n_obs)]
    other = tissue.copy()
    other.X = np.where(mask, 50, tissue.X.toarray()).astype(np.float32)
    np.testing.assert_array_equal(skip_of(model, other, mask), skip_of(model, tissue, mask))


def test_noise_has_little_weight(model, tissue):
    noise = tissue.copy()
    noise.X = np.random.default_rng(0).poisson(1.0, tissue.shape).astype(np.float32)
    nothing = np.zeros(tissue.shape, dtype=bool)
    of_noise, of_tissue = (np.quantile(skip_of(model, adata, nothing), 0.9) for adata in (noise, tissue))
    assert of_noise < 0.5 * of_tissue


def test_a_share_of_zero_leaves_the_network_alone(model, tissue, settings):
    mask = random_masks([1], tissue.n_vars, 0.3)[0][np.arange(tissue.n_obs)]
    model.module.section_fit = settings._replace(skip_share=0.0)
    spots = model._read(tissue)[1]
    one_pass, rows = OnePass(model.module, spots), np.arange(spots.n_obs)
    decoder = section_decoder(model.module, one_pass, rows, mask, fit=False)
    (encoded,) = one_pass.masked(rows, mask)
    with torch.inference_mode():
        alone = model.module.decode(encoded.latent, encoded.units)
    np.testing.assert_allclose(decoder.decode(encoded, one_pass), alone, atol=1e-5)


def test_recovery_does_not_suffer(model, settings):
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, seed=5)
    found = []
    for share in (0.0, settings.skip_share):
        model.module.section_fit = settings._replace(skip_share=share)
        found.append(model.get_masked_recovery(adata, fit_section=False).attrs["median_r"])
    assert found[1] > found[0] - 0.005
