"""What the network is trained on: masks, inputs, units and the loss, against the same in a few lines of NumPy."""

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from sagefm.data import ABSENT_KEY, N_NEIGHBORS_KEY, NEIGHBORS_KEY, UNIT_MEAN_KEY, UNIT_SCALE_KEY, Normalization, Units
from sagefm.module import Encoder, MaskedCenterModule

N_SPOTS, N_GENES, DEPTH = 7, 9, 50.0
PROFILE = np.full(N_GENES, 1 / N_GENES)

scaled_or_not = pytest.mark.parametrize("scale_genes", [True, False], ids=["scaled", "raw"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def module(normalization: str = "size", **kwargs: object) -> MaskedCenterModule:
    options = {"conv": "sage", "dropout_rate": 0.0, "mask_fraction": 0.3, "scale_genes": True, **kwargs}
    return MaskedCenterModule(Normalization(normalization, DEPTH, PROFILE), [N_GENES, 6, 4], **options)


def batch(scale_genes: bool = True) -> dict[str, Tensor]:
    """Spots of several sections; two genes are unknown in some of them, and one spot is isolated."""
    known = torch.ones(N_SPOTS, N_GENES, dtype=torch.bool)
    known[:3, 2], known[4:, 5] = False, False
    number = torch.full((N_SPOTS, 1), 6.0)
    number[4] = 0
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((N_SPOTS, N_GENES), 5.0)) * known,
        NEIGHBORS_KEY: torch.rand(N_SPOTS, N_GENES) * known * (number > 0),
        N_NEIGHBORS_KEY: number,
        ABSENT_KEY: known,
    }
    units = {UNIT_MEAN_KEY: torch.rand(N_SPOTS, N_GENES), UNIT_SCALE_KEY: 0.5 + torch.rand(N_SPOTS, N_GENES)}
    return tensors | (units if scale_genes else {})


def library_size(counts: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Library sizes, (spots, 1), as visible genes tell them."""
    return (counts * visible).sum(1, keepdims=True) / (visible * PROFILE).sum(1, keepdims=True)


def logged(counts: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Counts on the log scale at `DEPTH`."""
    return np.log1p(counts * visible * DEPTH / library_size(counts, visible))


def standardized(values: np.ndarray, visible: np.ndarray, tensors: dict[str, Tensor]) -> np.ndarray:
    if UNIT_MEAN_KEY not in tensors:
        return values
    return (values - tensors[UNIT_MEAN_KEY].numpy()) / tensors[UNIT_SCALE_KEY].numpy() * visible


def run(network: MaskedCenterModule, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inference = network.inference(**network._get_inference_input(tensors))
    return inference, network.generative(**network._get_generative_input(tensors, inference))


# Masks.


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.95])
def test_a_mask_hides_the_asked_share_of_every_row_and_column(fraction):
    network, counts = module(mask_fraction=fraction), torch.zeros(501, 403)
    in_training = torch.cat([network.draw_mask(counts) for _ in range(501)])
    for mask in (in_training, network.eval().draw_mask(counts)):
        assert mask.shape == (501, 403) and mask.dtype == torch.bool
        assert mask.float().mean().item() == pytest.approx(fraction, abs=0.004)
        for axis in (0, 1):
            assert (mask.float().mean(axis) - fraction).abs().max() < 5 * (fraction * (1 - fraction) / 403) ** 0.5


def test_the_spots_of_a_batch_share_their_mask_in_training_only():
    network, counts = module(), torch.zeros(20, 30)
    assert network.draw_mask(counts).shape == (1, 30)
    in_validation = network.eval().draw_mask(counts)
    assert len(torch.unique(in_validation, dim=0)) == 20


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
def test_a_fraction_next_to_one_masks_next_to_everything(training):
    network = module(mask_fraction=0.9999999).train(training)
    assert network.draw_mask(torch.zeros(100, 100)).float().mean() > 0.99


def test_masked_entries_do_not_tell_of_one_another():
    network, counts = module(), torch.zeros(400, 400)
    in_training = torch.cat([network.draw_mask(counts) for _ in range(400)])
    for mask in (in_training, network.eval().draw_mask(counts)):
        mask = mask.flatten().float()
        for lag in (1, 2, 3, 4, 400):
            assert abs(np.corrcoef(mask[lag:], mask[:-lag])[0, 1]) < 0.015


def test_masks_are_drawn_afresh_in_training_by_the_seed_of_torch():
    network, counts = module(), torch.zeros(20, 30)
    torch.manual_seed(5)
    first, second = network.draw_mask(counts), network.draw_mask(counts)
    torch.manual_seed(5)
    assert not torch.equal(first, second) and torch.equal(first, network.draw_mask(counts))


def test_masks_are_always_the_same_in_validation_and_leave_torchs_seed_alone():
    network, counts = module().eval(), torch.zeros(20, 30)
    first = network.draw_mask(counts)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(network.draw_mask(counts), first)
    assert torch.equal(torch.rand(3), expected)


# What is read, predicted and compared.


@scaled_or_not
def test_masked_and_missing_genes_of_a_centre_are_not_read(scale_genes):
    network, tensors = module(scale_genes=scale_genes), batch(scale_genes)
    asked = network._get_inference_input(tensors)
    visible = (asked["known"] * (1 - asked["mask"])).numpy()
    center = standardized(logged(tensors[REGISTRY_KEYS.X_KEY].numpy(), visible), visible, tensors)
    neighbors = standardized(tensors[NEIGHBORS_KEY].numpy(), tensors[ABSENT_KEY].numpy(), tensors)
    latent = network.encoder(*(torch.from_numpy(x).float() for x in (center, neighbors)), tensors[N_NEIGHBORS_KEY])
    found = network.inference(**asked)
    torch.testing.assert_close(found["z"], latent)
    assert torch.equal(found["mask"], asked["mask"])


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@scaled_or_not
def test_the_loss_is_the_mean_squared_error_of_masked_entries_weighted_by_root_library_size(scale_genes, training):
    network, tensors = module(scale_genes=scale_genes, mask_fraction=0.6).train(training), batch(scale_genes)
    inference, generated = run(network, tensors)
    known = tensors[ABSENT_KEY].numpy()
    target = standardized(logged(tensors[REGISTRY_KEYS.X_KEY].numpy(), known), known, tensors)
    mask = np.broadcast_to(inference["mask"].numpy() > 0, known.shape)
    asked = mask & known
    weight = np.sqrt(library_size(tensors[REGISTRY_KEYS.X_KEY].numpy(), known)) * asked
    expected = (weight * (every_gene(network, inference) - target) ** 2).sum() / weight.sum()
    found = network.loss(tensors, inference, generated)
    assert found.loss.item() == pytest.approx(expected, rel=1e-5) and expected > 0 and (mask & ~known).any()
    assert found.n_obs_minibatch == N_SPOTS


def test_raw_counts_weigh_the_same_in_the_loss_whatever_the_library_size():
    network, tensors = module("none", scale_genes=False), batch(scale_genes=False)
    inference, generated = run(network, tensors)
    asked = (inference["mask"] * inference["known"]).numpy() > 0
    squares = (every_gene(network, inference).clip(0) - np.log1p(tensors[REGISTRY_KEYS.X_KEY].numpy())) ** 2
    assert network.loss(tensors, inference, generated).loss.item() == pytest.approx(squares[asked].mean(), rel=1e-5)


def every_gene(network: MaskedCenterModule, inference: dict[str, Tensor]) -> np.ndarray:
    return network.generative(inference["z"], torch.arange(N_GENES))["predicted"].detach().numpy()


def with_mask(network: MaskedCenterModule, tensors: dict[str, Tensor], mask: Tensor) -> tuple[dict[str, Tensor], float]:
    """Return what the network makes of a batch with another mask, and its loss."""
    inference, _ = run(network, tensors)
    inference["mask"] = mask
    generated = network.generative(**network._get_generative_input(tensors, inference))
    return inference, network.loss(tensors, inference, generated).loss.item()


def test_a_batch_without_a_masked_entry_has_no_loss():
    assert with_mask(module(), batch(), torch.zeros(1, N_GENES))[1] == 0


def test_the_loss_of_one_masked_entry_is_its_squared_error():
    network, tensors, mask = module(), batch(), torch.zeros(N_SPOTS, N_GENES)
    mask[3, 4] = 1
    inference, loss = with_mask(network, tensors, mask)
    target, _ = network.center_input(
        tensors[REGISTRY_KEYS.X_KEY], inference["known"], Units(tensors[UNIT_MEAN_KEY], tensors[UNIT_SCALE_KEY])
    )
    expected = (every_gene(network, inference) - target.numpy())[3, 4] ** 2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_only_masked_genes_are_decoded_in_training():
    network, tensors = module(), batch()
    inference, generated = run(network, tensors)
    genes = np.flatnonzero(inference["mask"][0])
    assert 0 < len(genes) < N_GENES and np.array_equal(generated["genes"], genes)
    np.testing.assert_allclose(generated["predicted"].detach(), every_gene(network, inference)[:, genes], rtol=1e-5)


@scaled_or_not
def test_predictions_are_rectified_where_the_units_are_the_log_scale(scale_genes):
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


def test_predictions_are_float32_whatever_the_network_computes_in():
    network, latent = module().to(torch.bfloat16), torch.randn(5, 4, dtype=torch.bfloat16)
    assert network.decode(latent, Units()).dtype == torch.float32


# Units.


def test_the_moments_of_training_come_with_the_normalisation_and_with_the_weights():
    network, mean, scale = module(), torch.rand(N_GENES), 1 + torch.rand(N_GENES)
    network.fix_units(mean, scale)
    other = module()
    other.load_state_dict(network.state_dict())
    for normalization in (network.normalization, other.normalization):
        np.testing.assert_array_equal(normalization.gene_mean, mean)
        np.testing.assert_array_equal(normalization.gene_scale, scale)
        assert (normalization.method, normalization.target_depth) == ("size", DEPTH)


def test_genes_that_are_read_raw_have_no_moments():
    network = module(scale_genes=False)
    network.fix_units(torch.rand(N_GENES), torch.rand(N_GENES))
    assert network.normalization.gene_mean is None and network.normalization.gene_scale is None


# The network.


@pytest.mark.parametrize("conv", ["sage", "gcn"])
@pytest.mark.parametrize("through", ["forward", "on_graph"])
def test_dropout_falls_on_hidden_layers_in_training_only(conv, through):
    encoder = Encoder([N_GENES, 400, 3], conv=conv, dropout_rate=0.4)
    x = torch.rand(2, N_GENES)
    edges = torch.tensor([[0, 1], [1, 0]])
    inputs = (x, edges) if through == "on_graph" else (x, x.flip(0), torch.ones(2, 1))
    seen = []
    encoder.dropout.register_forward_hook(lambda layer, given, out: seen.append((out == 0).float().mean().item()))
    call = getattr(encoder, through)
    call(*inputs)
    assert seen == [pytest.approx(0.4, abs=0.08)]
    encoder.eval()
    assert torch.equal(call(*inputs), call(*inputs)) and seen[1:] == [0, 0]


def test_only_the_first_layer_of_sage_convolves():
    encoder = Encoder([N_GENES, 6, 5, 3], conv="sage", dropout_rate=0)
    assert encoder.n_layers == 3 and type(encoder.layer(1)).__name__ == "EgoSAGEConv"
    assert [(layer.in_features, layer.out_features) for layer in (encoder.layer(2), encoder.layer(3))] == [
        (6, 5),
        (5, 3),
    ]
    assert all(isinstance(encoder.layer(number), nn.Linear) for number in (2, 3))
