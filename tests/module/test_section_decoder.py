"""The fit to a section: the regression that it claims to be, blind to masked entries, and better than the network."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch

import sagefm
from sagefm.data import registered_spots
from sagefm.model import random_masks
from sagefm.module import OnePass, RidgeSums, section_decoder


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    return adata


@pytest.fixture(scope="module")
def model(tissue) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=64, n_latent=16)
    model.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def mask(tissue) -> np.ndarray:
    return random_masks([1], tissue.n_vars, 0.3)[0][np.arange(tissue.n_obs)]


def fitted(model, adata, mask):
    sagefm.SAGEFM.setup_anndata(adata)
    manager = sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).adata_manager
    spots = registered_spots(manager, model.module.normalization)
    one_pass = OnePass(model.module, spots, None, spots.units_without(mask))
    return section_decoder(model.module, one_pass, np.arange(spots.n_obs), mask, fit=True)


def test_the_regression_solves_the_normal_equations(model):
    rng, settings = np.random.default_rng(0), model.module.section_fit
    latent, components = rng.normal(size=(200, 3)) * [3, 1, 0.2], rng.normal(size=(200, 2))
    features = np.hstack([latent, components])
    means, target, start = rng.normal(size=(200, 4)), rng.normal(size=(200, 4)), rng.normal(size=(4, 5))
    sums = RidgeSums(4, 5)
    for part in (slice(0, 80), slice(80, 200)):
        arrays = (np.ones((200, 4)), target, means, features)
        sums.add(*(torch.from_numpy(values[part]) for values in arrays))
    weights, own = sums.solve(start, [3, 2], settings)

    sizes = [(part**2).sum() / 200 for part in (latent, components)]
    penalty = [*np.repeat(settings.feature_penalty * np.array(sizes), [3, 2]), settings.neighbor_penalty]
    for gene in range(4):
        design = np.column_stack([features, means[:, gene]])
        residual = target[:, gene] - features @ start[gene]
        found = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ residual)
        np.testing.assert_allclose(weights[gene] - start[gene], found[:-1], atol=1e-10)
        np.testing.assert_allclose(own[gene], found[-1], atol=1e-10)


def test_masked_entries_have_no_influence(model, tissue, mask):
    other = tissue.copy()
    counts = tissue.X.toarray()
    counts[mask] = np.random.default_rng(0).integers(0, 40, mask.sum())
    other.X = sp.csr_matrix(counts)
    for found, again in zip(fitted(model, tissue, mask), fitted(model, other, mask), strict=True):
        torch.testing.assert_close(found, again, rtol=0, atol=0)


def test_a_gene_that_is_masked_in_every_spot_keeps_the_weights_of_the_network(model, tissue, mask):
    mask = mask.copy()
    mask[:, [4, 90]] = True
    decoder, network = fitted(model, tissue, mask), model.module.decoder.weight
    n_latent = network.shape[1]
    torch.testing.assert_close(decoder.weight[[4, 90], :n_latent], network[[4, 90]])
    assert decoder.weight[[4, 90], n_latent:].abs().max() < 1e-6 and not decoder.neighbors[[4, 90]].any()
    assert decoder.neighbors.abs().mean() > 0.01


def test_a_fit_to_a_few_spots_is_finite(model, tissue):
    few = tissue[:3].copy()
    mask = np.zeros(few.shape, dtype=bool)
    mask[0] = mask[1, :20] = True
    assert np.isfinite(model.impute_masked(few, mask=mask).to_numpy()[mask]).all()


def test_predictions_of_some_spots_equal_those_among_all(model, tissue, mask):
    whole = model.impute_masked(mask=mask, batch_size=60)
    rows = np.array([150, 3, 77])
    np.testing.assert_allclose(model.impute_masked(mask=mask, indices=rows), whole.iloc[rows], atol=1e-4)


def test_sections_are_fitted_separately(model, tissue, mask):
    two = ad.concat({"a": tissue, "b": tissue[::-1]}, label="sample", pairwise=True, index_unique="-")
    sagefm.SAGEFM.setup_anndata(two, sample_key="sample")
    scvi.settings.seed = 0
    both = sagefm.SAGEFM(two, n_hidden=64, n_latent=16)
    both.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    masks = np.concatenate([mask, ~mask])
    changed = two.copy()
    counts = two.X.toarray()
    counts[tissue.n_obs :] = np.random.default_rng(0).permutation(counts[tissue.n_obs :])
    changed.X = sp.csr_matrix(counts)
    first, again = (both.impute_masked(adata, mask=masks).iloc[: tissue.n_obs] for adata in (two, changed))
    np.testing.assert_allclose(first, again, atol=1e-5)


def test_without_standardisation_of_genes_there_is_no_fit(tissue, mask):
    scvi.settings.seed = 0
    raw = sagefm.SAGEFM(tissue, n_hidden=64, scale_genes=False)
    raw.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    np.testing.assert_array_equal(raw.impute_masked(mask=mask), raw.impute_masked(mask=mask, fit_section=False))
    assert raw.get_masked_recovery().attrs["fit_section"] is False


def test_nothing_is_recovered_where_there_is_no_structure(model, tissue):
    """Library sizes make genes vary together a little, for the network as for the fit."""
    rng = np.random.default_rng(0)
    shuffled = tissue.copy()
    shuffled.X = sp.csr_matrix(np.stack([rng.permutation(gene) for gene in tissue.X.toarray().T], axis=1))
    network, fit = (model.get_masked_recovery(shuffled, n_masks=3, fit_section=fit) for fit in (False, True))
    assert fit.attrs["share_q05"] == 0
    assert abs(fit["r"].mean() - network["r"].mean()) < 0.015


def test_the_fit_recovers_more_in_tissue_unlike_that_of_training(model):
    other = sagefm.datasets.simulated_tissue(30, 30, n_genes=150, seed=5)
    network, fit = (model.get_masked_recovery(other, fit_section=fit).attrs for fit in (False, True))
    assert fit["top500_r"] > network["top500_r"] + 0.02
    assert fit["top500_r"] > fit["top500_r_neighbors"]
