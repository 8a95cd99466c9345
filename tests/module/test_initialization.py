"""The network before and after training: initialisation from PCA, and the orthogonalised decoder."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sagefm.data import Normalization
from sagefm.module import MaskedCenterModule

G = 12


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def module(n_hidden: int = 16, n_latent: int = 4, *, conv: str = "sage", scale_genes: bool = True):
    normalization = Normalization("size", 100.0, np.full(G, 1 / G), scale_genes=scale_genes)
    return MaskedCenterModule(normalization, [G, n_hidden, n_latent], conv=conv, dropout_rate=0, mask_fraction=0.3)


def copied(network: MaskedCenterModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_unchanged(network: MaskedCenterModule, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("n_hidden", [8, 9, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_initialised_from_pca_the_network_is_a_linear_projection_on_components(n_hidden, dtype):
    components = torch.linalg.qr(torch.randn(G, 4))[0].T
    deviation = torch.tensor([4.0, 3.0, 2.0, 1.0])
    network = module(n_hidden).eval()
    network.init_from_pca(components.to(dtype), deviation.to(dtype))
    center, neighbors = torch.randn(5, G), torch.randn(5, G)
    scores = (center + network.neighbor_weight * neighbors) @ components.T / deviation
    torch.testing.assert_close(network.encoder(center, neighbors, torch.ones(5, 1)), scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.decoder.weight, network.shrinkage * (deviation[:, None] * components).T)
    assert (network.decoder.bias == 0).all()


@pytest.mark.parametrize("kwargs", [{"conv": "gcn"}, {"n_hidden": 6}], ids=["gcn", "few hidden units"])
def test_a_network_that_cannot_be_initialised_from_pca_is_unchanged(kwargs):
    network = module(**kwargs)
    before = copied(network)
    network.init_from_pca(torch.linalg.qr(torch.randn(G, 4))[0].T, torch.ones(4))
    assert_unchanged(network, before)


@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_orthogonalising_changes_no_prediction_and_makes_latent_distances_those_of_predictions(conv):
    network = module(conv=conv).eval()
    inputs = torch.randn(30, G), torch.randn(30, G), torch.full((30, 1), 6.0)
    before = network.decoder(network.encoder(*inputs))
    network.orthogonalize_decoder()
    latent = network.encoder(*inputs)
    after = network.decoder(latent)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    ratio = torch.pdist(after) / torch.pdist(latent)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), atol=1e-4, rtol=1e-4)


def test_a_decoder_with_one_latent_dimension_per_gene_is_orthogonalised():
    network = module(n_latent=G)
    network.orthogonalize_decoder()
    squares = network.decoder.weight.T @ network.decoder.weight
    torch.testing.assert_close(squares, squares[0, 0] * torch.eye(G))


@pytest.mark.parametrize("kwargs", [{"scale_genes": False}, {"n_latent": G + 1}], ids=["raw", "few genes"])
def test_a_decoder_that_cannot_be_orthogonalised_is_unchanged(kwargs):
    network = module(**kwargs)
    before = copied(network)
    network.orthogonalize_decoder()
    assert_unchanged(network, before)
