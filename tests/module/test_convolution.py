"""The closed form of a convolution equals PyTorch Geometric on explicit complete ego graphs, gradients included."""

from collections.abc import Iterator

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv, SAGEConv

import sagefm
from sagefm.module import EgoGCNConv, EgoSAGEConv, Encoder

CONVOLUTIONS = {"gcn": (EgoGCNConv, GCNConv), "sage": (EgoSAGEConv, SAGEConv)}
N_SPOTS = 6
# Rounding of sums of some hundred terms, relative to the largest number of an array.
ROUNDING = {torch.float32: 5e-5, torch.float64: 1e-13}

every_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)
every_neighborhood = pytest.mark.parametrize("n_neighbors", [1, 3, 14, 18])
masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
both_precisions = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy processor, sums as small as these are many times slower on several threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def assert_same(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype
    scale = max(one.abs().max().item(), other.abs().max().item())
    assert (one - other).abs().max().item() <= ROUNDING[one.dtype] * scale


def ego_nodes(n_neighbors: int, n_in: int, *, masked: bool, dtype: torch.dtype) -> Tensor:
    """Return the input of spots and their neighbours, (spots, 1 + neighbours, in), with centres partly `masked`."""
    generator = torch.Generator().manual_seed(n_neighbors)
    nodes = torch.rand(N_SPOTS, 1 + n_neighbors, n_in, generator=generator, dtype=dtype)
    if masked:
        nodes[:, 0] *= torch.rand(N_SPOTS, n_in, generator=generator) > 0.3
    return nodes


def complete_graphs(n_nodes: int) -> Tensor:
    """Return the edges of one complete graph per spot, one after another, without self loops."""
    pairs = torch.tensor([(i, j) for i in range(n_nodes) for j in range(n_nodes) if i != j]).T
    return torch.cat([pairs + n_nodes * spot for spot in range(N_SPOTS)], dim=1)


def center_and_mean(nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    number = torch.full((len(nodes), 1), nodes.shape[1] - 1, dtype=nodes.dtype)
    return nodes[:, 0], nodes[:, 1:].mean(dim=1), number


def at_centers(on_nodes: Tensor, n_nodes: int) -> Tensor:
    return on_nodes.reshape(N_SPOTS, n_nodes, -1)[:, 0]


def with_random_biases(module: nn.Module) -> nn.Module:
    """Draw biases: those of PyG are zero at first, which would hide where they are added."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return module


def gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape).sin()
    return torch.autograd.grad((output * weights).sum(), inputs)


# Subclasses of the convolutions of PyTorch Geometric.


@every_convolution
def test_a_convolution_has_the_weights_of_pyg(name):
    ours, theirs = (kind(7, 5) for kind in CONVOLUTIONS[name])
    assert isinstance(ours, CONVOLUTIONS[name][1])
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


@every_convolution
def test_forward_is_that_of_pyg_on_any_graph(name):
    ours, theirs = (kind(7, 5) for kind in CONVOLUTIONS[name])
    ours.load_state_dict(theirs.state_dict())
    x, edge_index = torch.rand(20, 7), torch.randint(0, 20, (2, 60))
    assert torch.equal(ours(x, edge_index), theirs(x, edge_index))


def test_the_encoder_of_the_paper_has_the_weight_names_of_its_checkpoint():
    encoder = Encoder([9, 8, 7, 6, 5, 4], conv="gcn", dropout_rate=0)
    expected = {f"conv{number}.{part}" for number in range(1, 6) for part in ("lin.weight", "bias")}
    assert set(encoder.state_dict()) == expected


# One convolution.


@every_convolution
@every_neighborhood
@masked_or_not
@both_precisions
@pytest.mark.parametrize("sizes", [(5, 3), (64, 40)], ids=str)
def test_the_closed_form_equals_the_convolution_of_the_centre(name, n_neighbors, masked, dtype, sizes):
    conv = with_random_biases(CONVOLUTIONS[name][0](*sizes)).to(dtype)
    nodes = ego_nodes(n_neighbors, sizes[0], masked=masked, dtype=dtype).requires_grad_()
    on_graph = at_centers(conv(nodes.flatten(0, 1), complete_graphs(1 + n_neighbors)), 1 + n_neighbors)
    closed = conv.closed_form(*center_and_mean(nodes))
    assert_same(closed, on_graph)
    inputs = (nodes, *conv.parameters())
    for one, other in zip(gradients(closed, *inputs), gradients(on_graph, *inputs), strict=True):
        assert_same(one, other)


@every_neighborhood
def test_all_nodes_of_a_gcn_ego_graph_have_the_same_output(n_neighbors):
    conv = EgoGCNConv(5, 3)
    nodes = ego_nodes(n_neighbors, 5, masked=False, dtype=torch.float32)
    out = conv(nodes.flatten(0, 1), complete_graphs(1 + n_neighbors)).reshape(N_SPOTS, 1 + n_neighbors, 3)
    assert_same(out, out[:, :1].expand_as(out).contiguous())


@every_convolution
@every_neighborhood
@both_precisions
def test_averaging_projections_equals_projecting_the_average(name, n_neighbors, dtype):
    conv = with_random_biases(CONVOLUTIONS[name][0](12, 7)).to(dtype)
    nodes = ego_nodes(n_neighbors, 12, masked=False, dtype=dtype)
    center, mean, number = center_and_mean(nodes)
    projected = conv.project_neighbor(nodes[:, 1:]).mean(dim=1)
    assert_same(conv.combine(conv.project_center(center), projected, number), conv.closed_form(center, mean, number))


@every_convolution
def test_projections_are_linear(name):
    conv = with_random_biases(CONVOLUTIONS[name][0](12, 7))
    for project in (conv.project_center, conv.project_neighbor):
        x, y = torch.rand(2, 5, 12)
        torch.testing.assert_close(project(2 * x - y), 2 * project(x) - project(y))


def test_sage_weights_the_centre_separately_and_gcn_by_its_share():
    center, mean, number = torch.ones(1, 1), torch.zeros(1, 1), torch.full((1, 1), 4.0)
    gcn, sage = EgoGCNConv(1, 1), EgoSAGEConv(1, 1)
    for parameter in (*gcn.parameters(), *sage.parameters()):
        nn.init.ones_(parameter)
    nn.init.constant_(sage.lin_r.weight, 3)
    assert gcn.closed_form(center, mean, number).item() == pytest.approx(1 / 5 + 1)
    assert sage.closed_form(center, mean, number).item() == pytest.approx(3 + 1)


# The whole encoder.


def encoder_of(conv: str, depth: int, dtype: torch.dtype) -> Encoder:
    encoder = Encoder([20, *[16] * (depth - 1), 6], conv=conv, dropout_rate=0.5)
    return with_random_biases(encoder).to(dtype).eval()


@pytest.mark.parametrize("depth", [1, 2, 5])
@every_convolution
@every_neighborhood
@masked_or_not
@both_precisions
def test_the_encoder_gives_the_same_on_explicit_graphs(name, depth, n_neighbors, masked, dtype):
    encoder = encoder_of(name, depth, dtype)
    nodes = ego_nodes(n_neighbors, 20, masked=masked, dtype=dtype).requires_grad_()
    on_graph = at_centers(encoder.on_graph(nodes.flatten(0, 1), complete_graphs(1 + n_neighbors)), 1 + n_neighbors)
    closed = encoder(*center_and_mean(nodes))
    assert_same(closed, on_graph)
    inputs = (nodes, *encoder.parameters())
    for one, other in zip(gradients(closed, *inputs), gradients(on_graph, *inputs), strict=True):
        assert_same(one, other)


@every_convolution
def test_an_isolated_spot_is_its_own_neighbourhood(name):
    encoder = encoder_of(name, 2, torch.float64)
    x = torch.rand(4, 20, dtype=torch.float64)
    alone, number = torch.zeros_like(x), torch.zeros(4, 1, dtype=torch.float64)
    assert_same(encoder(x, alone, number), encoder(x, x, torch.ones_like(number)))


@every_convolution
def test_a_batch_may_mix_neighbourhoods_of_several_sizes(name):
    encoder = encoder_of(name, 2, torch.float64)
    batches = [center_and_mean(ego_nodes(n, 20, masked=False, dtype=torch.float64)) for n in (1, 3, 14)]
    isolated = torch.rand(2, 20, dtype=torch.float64)
    batches.append((isolated, torch.zeros_like(isolated), torch.zeros(2, 1, dtype=torch.float64)))
    together = encoder(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    assert_same(together, torch.cat([encoder(*batch) for batch in batches]))


# From a model: `to_pyg`.


def directed_section(tissue: ad.AnnData) -> ad.AnnData:
    """Return a section with a directed graph: spots 3 and 4 have no neighbours, and spot 4 is nobody's neighbour."""
    adata, rng = tissue.copy(), np.random.default_rng(0)
    graph = np.zeros((adata.n_obs, adata.n_obs), dtype=np.float32)
    for spot in range(adata.n_obs):
        graph[spot, rng.choice(adata.n_obs, rng.integers(1, 9), replace=False)] = 1
    graph[[3, 4]] = 0
    graph[:, 4] = 0
    graph[5, 3] = 1
    adata.obsp["spatial_connectivities"] = sp.csr_matrix(graph)
    return adata


@pytest.fixture(scope="module")
def lattice(tissue: ad.AnnData) -> ad.AnnData:
    return tissue.copy()


@pytest.fixture(scope="module")
def directed(tissue: ad.AnnData) -> ad.AnnData:
    return directed_section(tissue)


def briefly_trained(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=16, n_latent=5, **kwargs)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(
    scope="module",
    params=[
        {"conv": "sage"},
        {"conv": "gcn"},
        {"conv": "gcn", "n_layers": 5, "normalization": "none", "scale_genes": False},
    ],
    ids=["sage", "gcn", "published"],
)
def model(request: pytest.FixtureRequest, lattice: ad.AnnData) -> sagefm.SAGEFM:
    return briefly_trained(lattice, **request.param)


def latent_on_graphs(model: sagefm.SAGEFM, adata: ad.AnnData) -> np.ndarray:
    with torch.inference_mode():
        graphs = Batch.from_data_list(model.to_pyg(adata=adata))
        return model.module.encoder.on_graph(graphs.x, graphs.edge_index)[graphs.ptr[:-1]].numpy()


def test_pyg_graphs_give_the_latent_representation(model, lattice):
    latent = model.get_latent_representation(lattice, key_added=None)
    np.testing.assert_allclose(latent_on_graphs(model, lattice), latent, atol=1e-5 * np.abs(latent).max())


def test_pyg_graphs_give_the_latent_representation_on_a_directed_graph_with_isolated_spots(model, directed):
    latent = model.get_latent_representation(directed, key_added=None)
    np.testing.assert_allclose(latent_on_graphs(model, directed), latent, atol=1e-5 * np.abs(latent).max())


def test_a_pyg_graph_is_complete_on_a_spot_and_its_neighbours(model, directed):
    graph = directed.obsp["spatial_connectivities"]
    for data in model.to_pyg([7, 20], directed):
        neighbors = np.setdiff1d(graph[[data.center]].indices, data.center)
        assert data.num_nodes == 1 + len(neighbors)
        assert data.num_edges == data.num_nodes * (data.num_nodes - 1)
        assert not data.has_self_loops() and data.is_undirected()


def test_pyg_graphs_have_the_order_of_the_indices(model, lattice):
    assert [data.center for data in model.to_pyg([9, 2, 5], lattice)] == [9, 2, 5]
