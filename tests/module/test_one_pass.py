"""Spots encoded in one pass equal the network on dense input, also isolated spots, masked or not."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sagefm
from sagefm.data import registered_spots
from sagefm.module import OnePass, checked_batch_size

GRAPH = "spatial_connectivities"


@pytest.fixture(scope="module", params=["sage", "gcn"])
def model(request: pytest.FixtureRequest, tissue: ad.AnnData) -> sagefm.SAGEFM:
    """A model of two sections with a directed graph, in which spots 3 and 4 are isolated."""
    adata = tissue.copy()
    adata.obs["sample"] = np.where(np.arange(adata.n_obs) < 100, "a", "b")
    sections, rng = adata.obs["sample"].to_numpy(), np.random.default_rng(0)
    graph = (rng.random((adata.n_obs, adata.n_obs)) < 0.05) & (sections[:, None] == sections)
    np.fill_diagonal(graph, False)
    graph[[3, 4]] = False
    adata.obsp[GRAPH] = sp.csr_matrix(graph, dtype=np.float32)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = sagefm.SAGEFM(adata, conv=request.param, n_hidden=16, n_latent=5)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    for name, parameter in model.module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def spots(model):
    return registered_spots(model.adata_manager, model.module.normalization)


def dense(model, spots, rows, mask):
    """Return the latent representation by the network's own `inference` on dense input."""
    counts = torch.from_numpy(spots.counts(rows).toarray())
    means = torch.from_numpy(spots.neighborhood_means(rows))
    n_neighbors = torch.from_numpy(spots.n_neighbors[rows])
    absent = torch.from_numpy(spots.masked[None])
    with torch.inference_mode():
        arguments = (counts, torch.from_numpy(mask), absent, means, n_neighbors, spots.units.of(rows))
        return model.module.eval().inference(*arguments)["z"]


ROWS = np.array([150, 4, 99, 3, 100, 7])


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_unmasked_spots(model, spots, batch_size):
    one_pass = OnePass(model.module, spots, batch_size)
    nothing = np.zeros((len(ROWS), len(spots.genes)), dtype=bool)
    expected = dense(model, spots, ROWS, nothing)
    torch.testing.assert_close(one_pass.latent(ROWS), expected, atol=1e-4, rtol=1e-4)
    pieces = list(one_pass.unmasked(ROWS))
    torch.testing.assert_close(torch.cat([piece.latent for piece in pieces]), expected, atol=1e-4, rtol=1e-4)
    assert np.concatenate([piece.rows for piece in pieces]).tolist() == ROWS.tolist()


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_masked_spots(model, spots, batch_size):
    mask = np.random.default_rng(0).random((spots.n_obs, len(spots.genes))) < 0.4
    pieces = list(OnePass(model.module, spots, batch_size).masked(ROWS, mask))
    found = torch.cat([piece.latent for piece in pieces])
    torch.testing.assert_close(found, dense(model, spots, ROWS, mask[ROWS]), atol=1e-4, rtol=1e-4)
    assert not torch.cat([piece.x for piece in pieces])[torch.from_numpy(mask[ROWS])].any()


def test_isolated_spots_alone(model, spots):
    rows, mask = np.array([4, 3]), np.zeros((spots.n_obs, len(spots.genes)), dtype=bool)
    one_pass, expected = OnePass(model.module, spots), dense(model, spots, rows, mask[rows])
    torch.testing.assert_close(one_pass.latent(rows), expected, atol=1e-4, rtol=1e-4)
    (piece,) = one_pass.masked(rows, mask)
    torch.testing.assert_close(piece.latent, expected, atol=1e-4, rtol=1e-4)


def test_no_spots_are_an_empty_result(model, spots):
    nothing, one_pass = np.array([], dtype=int), OnePass(model.module, spots)
    assert one_pass.latent(nothing).shape == (0, 5)
    assert not list(one_pass.unmasked(nothing))


@pytest.mark.parametrize("batch_size", [0, -3, 1.5])
def test_a_batch_size_is_a_positive_whole_number(batch_size):
    with pytest.raises(ValueError, match="must be a whole number, 1 or more"):
        checked_batch_size(batch_size)
