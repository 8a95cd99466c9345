"""Masks, the network's input, the decoder and the loss, compared with a few lines of NumPy."""

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    Normalization,
    Units,
)
from sagefm.module import Encoder, MaskedCenterModule

N_SPOTS, N_GENES, DEPTH = 7, 9, 50.0
PROFILE = np.full(N_GENES, 1 / N_GENES)

scaled_or_not = pytest.mark.parametrize("scale_genes", [True, False], ids=["scaled", "raw"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def module(method: str = "size", *, scale_genes: bool = True, mask_fraction: float = 0.3) -> MaskedCenterModule:
    normalization = Normalization(method, DEPTH, PROFILE, scale_genes=scale_genes)
    return MaskedCenterModule(
        normalization, [N_GENES, 6, 4], conv="sage", dropout_rate=0.0, mask_fraction=mask_fraction
    )


def batch(scale_genes: bool = True) -> dict[str, Tensor]:
    """Spots, each of its own section: two genes are missing from some panels, and one spot is isolated."""
    absent = torch.zeros(N_SPOTS, N_GENES, dtype=torch.bool)
    absent[:3, 2] = absent[4:, 5] = True
    number = torch.full((N_SPOTS, 1), 6.0)
    number[4] = 0
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((N_SPOTS, N_GENES), 5.0)) * ~absent,
        NEIGHBORS_KEY: torch.rand(N_SPOTS, N_GENES) * ~absent * (number > 0),
        N_NEIGHBORS_KEY: number,
        SECTION_KEY: torch.arange(N_SPOTS),
        ABSENT_KEY: absent,
    }
    units = {UNIT_MEAN_KEY: torch.rand(N_SPOTS, N_GENES), UNIT_SCALE_KEY: 0.5 + torch.rand(N_SPOTS, N_GENES)}
    return tensors | (units if scale_genes else {})


def library_size(counts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Library sizes, (spots, 1), estimated from unmasked genes."""
    return (counts * ~mask).sum(1, keepdims=True) / (~mask * PROFILE).sum(1, keepdims=True)


def logged(counts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Counts on the log scale at `DEPTH`."""
    return np.log1p(counts * ~mask * DEPTH / library_size(counts, mask))


def standardized(values: np.ndarray, mask: np.ndarray, tensors: dict[str, Tensor]) -> np.ndarray:
    if UNIT_MEAN_KEY not in tensors:
        return values
    return (values - tensors[UNIT_MEAN_KEY].numpy()) / tensors[UNIT_SCALE_KEY].numpy() * ~mask


def run(network: MaskedCenterModule, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inference = network.inference(**network._get_inference_input(tensors))
    return inference, network.generative(**network._get_generative_input(tensors, inference))


# Masks.


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.95])
def test_the_requested_fraction_of_every_row_and_column_is_masked(fraction):
    network, counts = module(mask_fraction=fraction), torch.zeros(501, 403)
    in_training = torch.cat([network.draw_mask(counts) for _ in range(501)])
    for mask in (in_training, network.eval().draw_mask(counts)):
        assert mask.shape == (501, 403) and mask.dtype == torch.bool
        assert mask.float().mean().item() == pytest.approx(fraction, abs=0.004)
        for axis in (0, 1):
            assert (mask.float().mean(axis) - fraction).abs().max() < 5 * (fraction * (1 - fraction) / 403) ** 0.5


def test_spots_of_a_batch_share_their_mask_in_training_only():
    network, counts = module(), torch.zeros(20, 30)
    assert network.draw_mask(counts).shape == (1, 30)
    in_validation = network.eval().draw_mask(counts)
    assert len(torch.unique(in_validation, dim=0)) == 20


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
def test_a_fraction_close_to_one_masks_almost_everything(training):
    network = module(mask_fraction=0.9999999).train(training)
    assert network.draw_mask(torch.zeros(100, 100)).float().mean() > 0.99


def test_entries_are_masked_independently():
    network, counts = module(), torch.zeros(400, 400)
    in_training = torch.cat([network.draw_mask(counts) for _ in range(400)])
    for mask in (in_training, network.eval().draw_mask(counts)):
        mask = mask.flatten().float()
        for lag in (1, 2, 3, 4, 400):
            assert abs(np.corrcoef(mask[lag:], mask[:-lag])[0, 1]) < 0.015


def test_training_masks_differ_and_follow_the_seed_of_torch():
    network, counts = module(), torch.zeros(20, 30)
    torch.manual_seed(5)
    first, second = network.draw_mask(counts), network.draw_mask(counts)
    torch.manual_seed(5)
    assert not torch.equal(first, second) and torch.equal(first, network.draw_mask(counts))


def test_validation_masks_are_always_the_same_and_do_not_change_the_state_of_torch():
    network, counts = module().eval(), torch.zeros(20, 30)
    first = network.draw_mask(counts)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(network.draw_mask(counts), first)
    assert torch.equal(torch.rand(3), expected)


# Input, prediction and loss.


@scaled_or_not
def test_masked_genes_and_genes_missing_from_the_panel_are_not_input(scale_genes):
    network, tensors = module(scale_genes=scale_genes), batch(scale_genes)
    given, absent = network._get_inference_input(tensors), tensors[ABSENT_KEY].numpy()
    mask = given["mask"].numpy() | absent
    center = standardized(logged(tensors[REGISTRY_KEYS.X_KEY].numpy(), mask), mask, tensors)
    neighbors = standardized(tensors[NEIGHBORS_KEY].numpy(), absent, tensors)
    latent = network.encoder(*(torch.from_numpy(x).float() for x in (center, neighbors)), tensors[N_NEIGHBORS_KEY])
    found = network.inference(**given)
    torch.testing.assert_close(found["z"], latent)
    assert torch.equal(found["mask"], given["mask"])


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@scaled_or_not
def test_the_loss_is_the_mean_squared_error_of_masked_entries_weighted_by_root_library_size(scale_genes, training):
    network, tensors = module(scale_genes=scale_genes, mask_fraction=0.6).train(training), batch(scale_genes)
    inference, generated = run(network, tensors)
    counts, absent = tensors[REGISTRY_KEYS.X_KEY].numpy(), tensors[ABSENT_KEY].numpy()
    target = standardized(logged(counts, absent), absent, tensors)
    mask = np.broadcast_to(inference["mask"].numpy(), absent.shape)
    weight = np.sqrt(library_size(counts, absent)) * (mask & ~absent)
    expected = (weight * (every_gene(network, inference) - target) ** 2).sum() / weight.sum()
    found = network.loss(tensors, inference, generated)
    assert found.loss.item() == pytest.approx(expected, rel=1e-5) and expected > 0 and (mask & absent).any()
    assert found.n_obs_minibatch == N_SPOTS


def test_spots_of_raw_counts_have_the_same_weight_in_the_loss_whatever_their_library_size():
    network, tensors = module("none", scale_genes=False), batch(scale_genes=False)
    inference, generated = run(network, tensors)
    scored = (inference["mask"] & ~inference["absent"]).numpy()
    squares = (every_gene(network, inference).clip(0) - np.log1p(tensors[REGISTRY_KEYS.X_KEY].numpy())) ** 2
    assert network.loss(tensors, inference, generated).loss.item() == pytest.approx(squares[scored].mean(), rel=1e-5)


def every_gene(network: MaskedCenterModule, inference: dict[str, Tensor]) -> np.ndarray:
    return network.generative(inference["z"], torch.arange(N_GENES))["predicted"].detach().numpy()


def with_mask(network: MaskedCenterModule, tensors: dict[str, Tensor], mask: Tensor) -> tuple[dict[str, Tensor], float]:
    """Return the outputs of inference with another mask, and the loss."""
    inference, _ = run(network, tensors)
    inference["mask"] = mask
    generated = network.generative(**network._get_generative_input(tensors, inference))
    return inference, network.loss(tensors, inference, generated).loss.item()


def test_the_loss_of_a_batch_without_masked_entries_is_zero():
    assert with_mask(module(), batch(), torch.zeros(1, N_GENES, dtype=torch.bool))[1] == 0


def test_the_loss_of_one_masked_entry_is_its_squared_error():
    network, tensors, mask = module(), batch(), torch.zeros(N_SPOTS, N_GENES, dtype=torch.bool)
    mask[3, 4] = True
    inference, loss = with_mask(network, tensors, mask)
    units = Units(tensors[UNIT_MEAN_KEY], tensors[UNIT_SCALE_KEY])
    target, _ = network.center_input(tensors[REGISTRY_KEYS.X_KEY], tensors[ABSENT_KEY], units)
    expected = (every_gene(network, inference) - target.numpy())[3, 4] ** 2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_only_masked_genes_are_decoded_in_training():
    network, tensors = module(), batch()
    inference, generated = run(network, tensors)
    genes = np.flatnonzero(inference["mask"][0])
    assert 0 < len(genes) < N_GENES and np.array_equal(generated["genes"], genes)
    np.testing.assert_allclose(generated["predicted"].detach(), every_gene(network, inference)[:, genes], rtol=1e-5)


@scaled_or_not
def test_predictions_are_rectified_only_if_genes_are_not_standardised(scale_genes):
    network = module(scale_genes=scale_genes)
    latent = 9 * torch.randn(40, 4)
    expected = latent @ network.decoder.weight.T + network.decoder.bias
    found = network.generative(latent, torch.arange(N_GENES))["predicted"]
    torch.testing.assert_close(found, expected if scale_genes else expected.relu())
    assert (expected < 0).any() and ((found < 0).any() == scale_genes)


@pytest.mark.parametrize("genes", [slice(None), torch.tensor([5, 0, 2])], ids=["all", "some"])
def test_genes_are_decoded_to_the_log_scale(genes):
    network, latent = module(), 9 * torch.randn(40, 4)
    units = Units(torch.rand(1, N_GENES), 0.5 + torch.rand(1, N_GENES))
    whole = (latent @ network.decoder.weight.T + network.decoder.bias) * units.scale + units.mean
    found = network.decode_unrectified(latent, units.of_genes(genes), genes)
    torch.testing.assert_close(found, whole[:, genes])
    torch.testing.assert_close(network.decode(latent, units.of_genes(genes), genes), whole[:, genes].relu())
    assert (found < 0).any()


def test_predictions_are_float32_in_any_precision_of_the_network():
    network, latent = module().to(torch.bfloat16), torch.randn(5, 4, dtype=torch.bfloat16)
    assert network.decode(latent, Units()).dtype == torch.float32


# The normalisation.


def test_the_normalisation_is_part_of_the_state_of_the_network():
    network, mean, scale = module(), np.random.default_rng(0).random(N_GENES), np.linspace(1, 2, N_GENES)
    network.normalization.set_moments(mean, scale)
    other = module()
    other.load_state_dict(network.state_dict())
    for normalization in (network.normalization, other.normalization):
        np.testing.assert_array_equal(normalization.gene_mean, np.float32(mean))
        np.testing.assert_array_equal(normalization.gene_scale, np.float32(scale))
        assert (normalization.method, normalization.target_depth) == ("size", DEPTH)


@scaled_or_not
def test_the_normalisation_decides_whether_genes_are_standardised(scale_genes):
    assert module(scale_genes=scale_genes).scale_genes is scale_genes


def test_a_state_of_an_earlier_version_without_the_normalisation_loads():
    network = module()
    network.normalization.set_moments(np.linspace(0, 1, N_GENES), np.linspace(1, 2, N_GENES))
    state = {name.removeprefix("normalization."): value for name, value in network.state_dict().items()}
    earlier = {name: value for name, value in state.items() if name not in ("profile", "target_depth")}
    assert {"gene_mean", "gene_scale"} < set(earlier) and not any("normalization" in name for name in earlier)
    other = module()
    other.load_state_dict(earlier)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


# The encoder.


@pytest.mark.parametrize("conv", ["sage", "gcn"])
@pytest.mark.parametrize("through", ["forward", "on_graph"])
def test_dropout_applies_to_hidden_layers_in_training_only(conv, through):
    encoder = Encoder([N_GENES, 400, 3], conv=conv, dropout_rate=0.4)
    x = torch.rand(2, N_GENES)
    edges = torch.tensor([[0, 1], [1, 0]])
    inputs = (x, edges) if through == "on_graph" else (x, x.flip(0), torch.ones(2, 1))
    dropped = []
    encoder.dropout.register_forward_hook(lambda layer, given, out: dropped.append((out == 0).float().mean().item()))
    call = getattr(encoder, through)
    call(*inputs)
    assert dropped == [pytest.approx(0.4, abs=0.08)]
    encoder.eval()
    assert torch.equal(call(*inputs), call(*inputs)) and dropped[1:] == [0, 0]


def test_only_the_first_layer_of_sage_convolves():
    encoder = Encoder([N_GENES, 6, 5, 3], conv="sage", dropout_rate=0)
    first, *others = (encoder.layer(number) for number in range(1, encoder.n_layers + 1))
    assert type(first).__name__ == "EgoSAGEConv" and all(isinstance(layer, nn.Linear) for layer in others)
    assert [(layer.in_features, layer.out_features) for layer in others] == [(6, 5), (5, 3)]
