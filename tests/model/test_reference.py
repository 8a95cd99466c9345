"""The published model: the same numbers as PyTorch Geometric on explicit ego graphs, and files not to be trusted.

The yardstick below shares no code with the package: it copies the spots of each ego graph, joins every pair of them and
convolves all of them.
"""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import GCNConv

import sagefm
from sagefm.data import Units
from sagefm.module import OnePass

GRAPH = "spatial_knn14_connectivities"
ROUNDING = 1e-5  # of float32, relative to the largest number of an array
PUBLISHED = [1024, 512, 512, 512, 1024]
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}

Weights = dict[str, Tensor]


# Checkpoints of random weights, and the published computation written out.


def random_weights(n_genes: int, widths: Sequence[int], seed: int = 0) -> Weights:
    """Weights as the published files hold them; activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for number, (n_in, n_out) in enumerate(pairwise([n_genes, *widths]), start=1):
        weights[f"conv{number}.lin.weight"] = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        weights[f"conv{number}.bias"] = torch.randn(n_out, generator=generator) / 10
    weights["fc_gene.weight"] = torch.randn(n_genes, widths[-1], generator=generator) / widths[-1] ** 0.5
    weights["fc_gene.bias"] = torch.rand(n_genes, generator=generator)
    return weights


def write(path: Path, weights: Weights, **beside: object) -> Path:
    torch.save({"model_state_dict": weights, **beside}, path)
    return path


def ego_graphs(counts: np.ndarray, graph: sp.csr_matrix, centers: Sequence[int]) -> Tensor:
    """Copies of the log counts of each centre and then of its 14 neighbours: (centres, 15, genes)."""
    nodes = [np.concatenate([[center], graph[[center]].indices]) for center in centers]
    assert {len(members) for members in nodes} == {15}
    return torch.from_numpy(np.log1p(counts[np.stack(nodes)]).astype(np.float32))


@torch.inference_mode()
def published(weights: Weights, nodes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and predictions of the centres of ego graphs, all of whose nodes are convolved and joined."""
    n_graphs, n_nodes, n_genes = nodes.shape
    pairs = torch.tensor([(i, j) for i in range(n_nodes) for j in range(n_nodes) if i != j]).T
    edges = torch.cat([pairs + n_nodes * number for number in range(n_graphs)], dim=1)
    x = nodes.reshape(-1, n_genes)
    n_layers = len(weights) // 2 - 1
    for number in range(1, n_layers + 1):
        n_out, n_in = weights[f"conv{number}.lin.weight"].shape
        conv = GCNConv(n_in, n_out)
        state = {part: weights[f"conv{number}.{part}"] for part in ("lin.weight", "bias")}
        conv.load_state_dict(state)
        x = conv(x, edges)
        if number < n_layers:
            x = functional.leaky_relu(x)
    predicted = functional.linear(x, weights["fc_gene.weight"], weights["fc_gene.bias"]).relu()
    return x[::n_nodes].numpy(), predicted[::n_nodes].numpy()


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and np.ptp(theirs) > 0
    assert np.abs(ours - theirs).max() < ROUNDING * np.abs(theirs).max()


def latent_of(model: sagefm.SAGEFM, adata: ad.AnnData | None = None) -> np.ndarray:
    return model.get_latent_representation(adata, key_added=None)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., sagefm.SAGEFM]:
    """Write weights to a file and load them for a section, under the section's own genes or others."""

    def loaded(adata: ad.AnnData, weights: Weights, genes: object = None, **kwargs: object) -> sagefm.SAGEFM:
        path = write(tmp_path / "checkpoint.pt", weights)
        genes = adata.var_names if genes is None else genes
        model = sagefm.SAGEFM.from_reference_checkpoint(path, genes, adata, **kwargs)
        path.unlink()  # at the published sizes it is large
        return model

    return loaded


@pytest.fixture(scope="module")
def weights(tissue: ad.AnnData) -> Weights:
    return random_weights(tissue.n_vars, [24, 16, 12])


@pytest.fixture
def model(load, adata: ad.AnnData, weights: Weights) -> sagefm.SAGEFM:
    return load(adata, weights)


# The same numbers.


def assert_exact(model: sagefm.SAGEFM, adata: ad.AnnData, weights: Weights, centers: np.ndarray) -> None:
    """Compare with the yardstick: unmasked, with 30 % of the centres' entries masked, and with 10 % of genes hidden."""
    rng = np.random.default_rng(0)
    columns = adata.var_names.get_indexer(model.genes)
    whole = adata.X.toarray()[:, columns]
    nodes = ego_graphs(whole, adata.obsp[GRAPH], centers)

    embedding, predicted = published(weights, nodes)
    assert_same(model.get_latent_representation(indices=centers, key_added=None), embedding)
    assert_same(model.module.decode(torch.from_numpy(embedding), Units()).detach().numpy(), predicted)

    mask = np.zeros(adata.shape, dtype=bool)
    mask[centers] = rng.random((len(centers), adata.n_vars)) < 0.3
    masked = nodes.clone()
    masked[:, 0] *= torch.from_numpy(~mask[centers][:, columns])
    embedding, predicted = published(weights, masked)
    one_pass = OnePass(model.module, model._spots_of(None)).masked(centers, lambda rows: mask[rows][:, columns])
    assert_same(np.concatenate([piece.latent.numpy() for piece in one_pass]), embedding)
    imputed = model.impute_masked(mask=mask, indices=centers).to_numpy()[:, columns]
    asked = mask[centers][:, columns]
    np.testing.assert_array_equal(np.isfinite(imputed), asked)
    assert_same(imputed[asked], predicted[asked])

    hidden = rng.permutation(len(model.genes))[: len(model.genes) // 10]
    without = nodes.clone()
    without[:, :, hidden] = 0
    predicted = published(weights, without)[1][:, hidden]
    assert_same(model.impute_masked(genes=model.genes[hidden], indices=centers).to_numpy(), predicted)


@pytest.mark.parametrize(
    "widths", [[1, 1], [32, 8], [8, 32], [24, 16, 12], [40, 20, 20, 20, 40], [16] * 7], ids=lambda widths: str(widths)
)
def test_embeddings_and_predictions_are_those_of_pytorch_geometric(load, adata, widths):
    weights = random_weights(adata.n_vars, widths, seed=len(widths))
    assert_exact(load(adata, weights), adata, weights, np.arange(adata.n_obs))


@pytest.mark.parametrize("name", ["tnbc_bassiouni2023__120E", "her2st_andersson2021__A1"])
def test_they_are_the_same_at_the_published_sizes_on_a_real_section(load, real_section, name):
    adata = real_section(name)
    list_of_genes = (
        Path(__file__).parents[2] / os.environ.get("SAGEFM_DATA", "../shared/data") / "reference/Matched_Gene_Names.npy"
    )
    if not list_of_genes.exists():
        pytest.skip(f"the published list of genes is not at {list_of_genes}")
    genes = pd.Index(np.load(list_of_genes))
    weights = random_weights(len(genes), PUBLISHED)
    model = load(adata, weights, list_of_genes)
    assert sum(parameter.numel() for parameter in model.module.parameters()) == 31_405_790
    centers = np.random.default_rng(0).choice(adata.n_obs, 24, replace=False)

    # A section that lacks genes is compared with zeros in their place.
    lacking = genes.difference(adata.var_names)
    zeros = ad.AnnData(sp.csr_matrix((adata.n_obs, len(lacking)), dtype=np.float32), obs=adata.obs[[]])
    zeros.var_names = lacking
    completed = ad.concat([adata, zeros], axis=1)
    completed.obsp[GRAPH] = adata.obsp[GRAPH]
    nodes = ego_graphs(completed[:, genes].X.toarray(), adata.obsp[GRAPH], centers)

    embedding, _ = published(weights, nodes)
    assert_same(model.get_latent_representation(indices=centers, key_added=None), embedding)

    known = genes.isin(adata.var_names)
    mask = np.zeros(adata.shape, dtype=bool)
    mask[centers] = np.random.default_rng(1).random((len(centers), adata.n_vars)) < 0.3
    asked = np.zeros((len(centers), len(genes)), dtype=bool)
    asked[:, known] = mask[centers][:, adata.var_names.get_indexer(genes[known])]
    mask[:, ~adata.var_names.isin(genes)] = False  # nobody knows them
    masked = nodes.clone()
    masked[:, 0] *= torch.from_numpy(~asked)
    predicted = published(weights, masked)[1]
    imputed = model.impute_masked(mask=mask, indices=centers).reindex(columns=genes).to_numpy()
    np.testing.assert_array_equal(np.isfinite(imputed), asked)
    assert_same(imputed[asked], predicted[asked])

    hidden = np.random.default_rng(2).permutation(len(genes))[: len(genes) // 2]
    without = nodes.clone()
    without[:, :, hidden] = 0
    predicted = published(weights, without)[1][:, hidden]
    assert_same(model.impute_masked(genes=genes[hidden], indices=centers).to_numpy(), predicted)


# Architecture and training.


def test_the_published_architecture_has_the_published_number_of_parameters():
    adata = ad.AnnData(sp.eye_array(20, 14_558, format="csr", dtype=np.float32))
    adata.obsm["spatial"] = np.random.default_rng(0).random((20, 2))
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, **sagefm.SAGEFM.published_architecture())
    assert sum(parameter.numel() for parameter in model.module.parameters()) == 31_405_790
    convolutions = [model.module.encoder.layer(number) for number in range(1, 6)]
    assert [conv.out_channels for conv in convolutions] == PUBLISHED
    assert all(isinstance(conv, GCNConv) for conv in convolutions)


def test_the_published_training_is_what_the_optimiser_gets():
    adata = sagefm.datasets.simulated_tissue(8, 8, n_genes=100, n_sections=10)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    small = {**sagefm.SAGEFM.published_architecture(), "n_hidden": (16, 8), "n_latent": 8}

    def sections_of_split(seed: int) -> list[set[str]]:
        scvi.settings.seed = seed
        model = sagefm.SAGEFM(adata, **small)
        model.train(**sagefm.SAGEFM.published_training(), max_epochs=1, **QUIET)
        group = model.trainer.optimizers[0].param_groups[0]
        assert type(model.trainer.optimizers[0]) is torch.optim.Adam
        assert (group["lr"], group["eps"], group["weight_decay"]) == (5e-5, 1e-8, 1e-4)
        scheduler = model.trainer.lr_scheduler_configs[0]
        assert type(scheduler.scheduler) is torch.optim.lr_scheduler.ReduceLROnPlateau
        assert (scheduler.scheduler.factor, scheduler.scheduler.patience) == (0.9, 10)
        assert scheduler.monitor == "validation_loss"
        assert model.trainer.early_stopping_callback.patience == 10
        assert model.trainer.datamodule.data_loader_kwargs["batch_size"] == 64
        parts = [model.train_indices, model.validation_indices, model.test_indices]
        sections = [set(adata.obs["sample"].iloc[part]) for part in parts]
        assert [len(part) for part in sections] == [8, 1, 1] and len(set.union(*sections)) == 10
        return sections

    first = sections_of_split(0)
    assert sections_of_split(0) == first
    assert any(sections_of_split(seed) != first for seed in (1, 2))


# Genes by name.


def test_gene_names_come_from_a_file_or_a_sequence(load, adata, weights, tmp_path):
    names = adata.var_names.astype(str)
    np.save(tmp_path / "genes.npy", names.to_numpy(dtype=str))
    np.save(tmp_path / "bytes.npy", names.to_numpy(dtype="S"))
    (tmp_path / "genes.txt").write_text("\n".join(names))
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*names, "", ""]).encode())
    files = [tmp_path / name for name in ("genes.npy", "bytes.npy", "genes.txt", "windows.txt")]
    sources = [*files, str(files[0]), names, list(names), tuple(names), names.to_numpy(), names.to_series()]
    latent = latent_of(load(adata, weights))
    for source in sources:
        np.testing.assert_array_equal(latent_of(load(adata.copy(), weights, source)), latent)


def test_a_name_in_a_text_file_may_hold_a_space(load, adata, weights, tmp_path):
    adata.var_names = ["MY GENE", *adata.var_names[1:]]
    (tmp_path / "genes.txt").write_text("\n".join(adata.var_names))
    assert list(load(adata, weights, tmp_path / "genes.txt").genes) == list(adata.var_names)


def test_genes_are_found_in_another_order(load, model, adata, weights):
    order = np.random.default_rng(0).permutation(adata.n_vars)
    other = adata[:, order].copy()
    assert_same(latent_of(load(other, weights, adata.var_names)), latent_of(model))
    assert_same(latent_of(model, other), latent_of(model))


def test_a_missing_gene_is_a_column_of_zeros_and_is_reported(load, adata, weights, caplog):
    genes = adata.var_names
    zeroed = adata.copy()
    zeroed.X = sp.csr_matrix(zeroed.X @ sp.diags_array((np.arange(adata.n_vars) >= 50).astype(np.float32)))
    panel = adata[:, 50:].copy()
    with caplog.at_level("INFO", logger="sagefm"):
        model = load(panel, weights, genes)
    assert "100 of the model's 150 genes (66.7%) are in the section" in caplog.text
    assert list(model.genes) == list(genes)
    of_zeros = load(zeroed, weights)
    assert_same(latent_of(model), latent_of(of_zeros))
    mask = np.random.default_rng(0).random(adata.shape) < 0.3
    imputed, expected = model.impute_masked(mask=mask[:, 50:]), of_zeros.impute_masked(mask=mask).iloc[:, 50:]
    assert_same(imputed.to_numpy()[mask[:, 50:]], expected.to_numpy()[mask[:, 50:]])
    asked = list(genes[45:55])
    assert_same(model.impute_masked(genes=asked).to_numpy(), of_zeros.impute_masked(genes=asked).to_numpy())
    assert len(model.get_masked_recovery()) == 100


def test_genes_that_the_checkpoint_does_not_know_are_ignored(load, adata, weights, model):
    novel = ad.AnnData(sp.csr_matrix(np.full((adata.n_obs, 30), 9, dtype=np.float32)), obs=adata.obs[[]])
    novel.var_names = [f"NOVEL{number}" for number in range(30)]
    wider = ad.concat([novel, adata], axis=1)
    wider.obsm["spatial"] = adata.obsm["spatial"]
    assert_same(latent_of(load(wider, weights, adata.var_names)), latent_of(model))


def test_three_percent_of_the_genes_are_too_few_and_nothing_is_written(load, adata, weights):
    names = [*adata.var_names[:4], *(f"OTHER{number}" for number in range(adata.n_vars - 4))]
    with pytest.raises(ValueError, match=r"has 4 of the 150 genes that the model knows \(2.7%\); at least 10%"):
        load(adata, weights, names)
    assert not adata.obsp and not adata.uns.get("_scvi_uuid")


def test_layer_and_gene_symbols_are_those_of_setup(load, model, adata, weights):
    other = adata.copy()
    other.layers["counts"], other.X = other.X, None
    other.var["symbol"] = other.var_names
    other.var_names = [f"ENSG{number}" for number in range(other.n_vars)]
    latent = latent_of(load(other, weights, adata.var_names, layer="counts", gene_symbols="symbol"))
    np.testing.assert_array_equal(latent, latent_of(model))
    with pytest.raises(KeyError, match="layer='raw' is not in layers"):
        load(other, weights, adata.var_names, layer="raw", gene_symbols="symbol")
    with pytest.raises(KeyError, match="gene_symbols='name' is not a column of var"):
        load(other, weights, adata.var_names, layer="counts", gene_symbols="name")


# The graph.


def nearest(coordinates: np.ndarray) -> list[float]:
    """Sum of the distances to the 14 nearest: ties may be broken either way."""
    distances = np.linalg.norm(coordinates[:, None] - coordinates[None], axis=2)
    return np.sort(distances, axis=1)[:, 1:15].sum(axis=1)


def joined(adata: ad.AnnData) -> list[float]:
    coordinates, edges = adata.obsm["spatial"], sp.coo_matrix(adata.obsp[GRAPH])
    distances = np.linalg.norm(coordinates[edges.row] - coordinates[edges.col], axis=1)
    return np.bincount(edges.row, distances, minlength=adata.n_obs)


def test_every_spot_is_joined_to_its_14_nearest_and_another_graph_stays(load, adata, weights):
    sagefm.SAGEFM.setup_anndata(adata)
    lattice = adata.obsp["spatial_connectivities"].copy()
    load(adata, weights)
    assert (np.diff(adata.obsp[GRAPH].indptr) == 14).all() and adata.obsp[GRAPH].diagonal().sum() == 0
    np.testing.assert_allclose(joined(adata), nearest(adata.obsm["spatial"]))
    assert (adata.obsp["spatial_connectivities"] != lattice).nnz == 0
    assert (np.diff(lattice.indptr) > 14).any()


def test_sections_are_joined_apart(load, weights):
    adata = sagefm.datasets.simulated_tissue(8, 8, n_genes=150, n_sections=3)
    load(adata[adata.obs["sample"] == adata.obs["sample"].iloc[0]].copy(), weights)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()  # sections may be mixed
    model = load(adata, weights, sample_key="sample")
    assert (np.diff(adata.obsp[GRAPH].indptr) == 14).all()
    latent = latent_of(model)
    for name in adata.obs["sample"].unique():
        alone = adata[adata.obs["sample"] == name].copy()
        del alone.obsp[GRAPH]
        assert_same(latent_of(load(alone, weights)), latent[adata.obs["sample"] == name])
    with pytest.raises(KeyError, match="sample_key='patient' is not a column of obs"):
        load(adata, weights, sample_key="patient")


def test_a_graph_that_lost_spots_or_crosses_sections_is_built_again(load, weights):
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150)
    load(adata, weights)
    part = adata[:60].copy()
    load(part, weights)
    np.testing.assert_allclose(joined(part), nearest(part.obsm["spatial"]))
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < adata.n_obs // 2, "a", "b")
    load(adata, weights, sample_key="half")
    edges = sp.coo_matrix(adata.obsp[GRAPH])
    assert (adata.obs["half"].to_numpy()[edges.row] == adata.obs["half"].to_numpy()[edges.col]).all()


def test_a_graph_of_14_neighbours_that_is_there_is_kept(load, adata, weights):
    ring = sum(sp.eye_array(adata.n_obs, k=k) for n in range(1, 15) for k in (n, n - adata.n_obs))
    adata.obsp[GRAPH] = sp.csr_matrix(ring, dtype=np.float32)
    model = load(adata, weights)
    assert_exact(model, adata, weights, np.arange(20))
    assert adata.obsp[GRAPH][0].indices.tolist() == list(range(1, 15))


def test_a_section_without_coordinates_or_of_too_few_spots_is_named(load, adata, weights):
    with pytest.raises(ValueError, match=r"has 10 spot\(s\), fewer than the 15"):
        load(adata[:10].copy(), weights)
    with pytest.raises(KeyError, match="neither a neighbour graph nor coordinates"):
        load(adata, weights, spatial_key="pixels")


# Files that are damaged, hostile, or something else.


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.fixture
def good(tmp_path: Path, weights: Weights) -> bytes:
    return write(tmp_path / "good.pt", weights, hidden_channels=[24, 16, 12]).read_bytes()


def read(content: bytes, tmp_path: Path, adata: ad.AnnData) -> sagefm.SAGEFM:
    path = tmp_path / "given.pt"
    path.write_bytes(content)
    return sagefm.SAGEFM.from_reference_checkpoint(path, adata.var_names, adata)


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return content.getvalue()


def saved(content: object, **kwargs: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(good, tmp_path, adata, share):
    with pytest.raises(ValueError, match=r"given\.pt is damaged: its end is missing"):
        read(good[: int(share * len(good))], tmp_path, adata)


def test_a_flipped_bit_among_the_weights_is_named(good, tmp_path, adata):
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0b100
    with pytest.raises(ValueError, match=r"is damaged: the checksum of '\w+/data/\d+' is wrong"):
        read(bytes(flipped), tmp_path, adata)


def test_a_flipped_bit_anywhere_is_named_or_does_no_harm(good, tmp_path, weights):
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.pt"
    n_refused = 0
    places = np.concatenate(
        [rng.integers(len(good), size=100), rng.integers(1500, size=100), -rng.integers(1, 1500, 100)]
    )
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = sagefm.weights._published.read_checkpoint(path)
        except ValueError as error:
            assert "flipped.pt" in str(error)
            n_refused += 1
        else:
            assert found.keys() == weights.keys() and all(torch.equal(found[key], weights[key]) for key in weights)
    assert n_refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is a README, and no weights\n" * 9, "is no torch file, or is damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "is no torch file, or is damaged"),
        (b"\x40" + bytes(7) + b'{"weight": {"dtype": "F32"}}', "is no torch file, or is damaged"),
        (bytes(1000), "is no torch file, or is damaged"),
        (archive(**{"notes.txt": b"hello"}), "is no torch file, or is damaged"),
        (archive(**{"a/data.pkl": b"spoilt"}), "holds more than tensors|is no torch file, or is damaged"),
    ],
    ids=["empty", "text", "HDF5", "safetensors", "zeros", "another archive", "an archive with a spoilt pickle"],
)
def test_something_else_is_no_checkpoint(tmp_path, adata, content, message):
    with pytest.raises(ValueError, match=rf"given\.pt {message}"):
        read(content, tmp_path, adata)
    assert not adata.obsp


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "as weights", "among weights", "beside", "in an archive", "in an old file"])
def test_code_in_a_file_is_not_run(tmp_path, adata, weights, place, protocol):
    evil = Touch(tmp_path / "created")
    content = {
        "alone": lambda: pickle.dumps(evil, protocol),
        "as weights": lambda: pickle.dumps({"model_state_dict": evil}, protocol),
        "among weights": lambda: saved({"model_state_dict": {**weights, "conv1.bias": evil}}, pickle_protocol=protocol),
        "beside": lambda: saved({"model_state_dict": weights, "optimizer": evil}, pickle_protocol=protocol),
        "in an archive": lambda: archive(**{"a/data.pkl": pickle.dumps(evil, protocol), "a/version": b"3\n"}),
        "in an old file": lambda: saved(
            {"model_state_dict": weights, "optimizer": evil},
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        ),
    }[place]()
    with pytest.raises(
        ValueError, match=r"holds more than tensors and plain values.*run code.*it was not read"
    ) as error:
        read(content, tmp_path, adata)
    assert not evil.path.exists()
    assert "weights_only" not in str(error.value)  # no advice to read it after all
    if protocol == 2:
        assert "(io.open)" in str(error.value) or "(_io.open)" in str(error.value)


def test_a_whole_model_is_refused_with_the_way_out(tmp_path, adata):
    with pytest.raises(ValueError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*save it alone, with `torch\.save"):
        read(saved({"model_state_dict": torch.nn.Linear(2, 2)}), tmp_path, adata)


def changed(weights: Weights, **changes: object) -> dict:
    """Weights with others in some places, under names with `_` for `.`; None takes one out."""
    names = {"conv1_weight": "conv1.lin.weight", "conv1_bias": "conv1.bias", "fc_bias": "fc_gene.bias"}
    changes = {names.get(key, key): value for key, value in changes.items()}
    return {key: value for key, value in {**weights, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: [1, 2], "has no `model_state_dict`; found list"),
        (lambda w: {"state_dict": w}, r"has no `model_state_dict`; found \['state_dict'\]"),
        (lambda w: w, r"has no `model_state_dict`; found \['conv1.bias', "),
        (lambda w: {"model_state_dict": 3}, "has no `model_state_dict`"),
        (lambda w: {"model_state_dict": {}}, r"missing \['conv1.bias', 'conv1.lin.weight', "),
        (
            lambda w: {"model_state_dict": torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict()},
            r"is not a SAGE-FM checkpoint.*not expected \['0.bias', '0.weight'\]",
        ),
        (lambda w: {"model_state_dict": changed(w, conv1_bias=None)}, r"missing \['conv1.bias'\], not expected \[\]"),
        (lambda w: {"model_state_dict": changed(w, fc_bias=None)}, r"missing \['fc_gene.bias'\]"),
        (
            lambda w: {"model_state_dict": changed(w, **{"conv7.bias": torch.rand(3)})},
            r"missing \[\], not expected \['conv7.bias'\]",
        ),
        (
            lambda w: {"model_state_dict": changed(w, **{"conv4.lin.weight": torch.rand(3, 12)})},
            r"missing \['conv4.bias'\], not expected \[\]",
        ),
        (lambda w: {"model_state_dict": changed(w, **{"batch_norm": torch.rand(3)})}, r"not expected \['batch_norm'\]"),
        (
            lambda w: {"model_state_dict": random_weights(150, [8])},
            r"missing \['conv2.bias', 'conv2.lin.weight'\], not expected \[\]",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_weight=w["conv1.lin.weight"].T)},
            r"1 weights have an odd shape: conv1.lin.weight is \(150, 24\), expected \(24, 150\)",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=torch.tensor(1.0))},
            r"3 weights have an odd shape: conv1.lin.weight is \(24, 150\), expected \(1, 150\)",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.rand(150, 1))},
            r"fc_gene.bias is \(150, 1\), expected",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.rand(149))},
            "has 149 genes, the list of gene names 150",
        ),
        (
            lambda w: {
                "model_state_dict": changed(
                    w, conv1_bias=w["conv1.bias"].clone().index_fill_(0, torch.tensor(3), torch.nan)
                )
            },
            "has 1 values in conv1.bias that are NaN or infinite",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.full((150,), 1e300, dtype=torch.float64))},
            "has 150 values in fc_gene.bias that are NaN or infinite",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=[0.0] * 24)},
            "no plain floating-point tensor for conv1.bias; found list",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=torch.ones(24, dtype=torch.int64))},
            "no plain floating-point tensor for conv1.bias; found torch.int64",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_weight=w["conv1.lin.weight"].to_sparse())},
            "no plain floating-point tensor for conv1.lin.weight",
        ),
        (
            lambda w: {"model_state_dict": w, "hidden_channels": [1024, 512, 12]},
            r"states hidden_channels=\[1024, 512, 12\], but its weights have the widths \[24, 16, 12\]",
        ),
        (lambda w: {"model_state_dict": w, "hidden_channels": 24}, "states hidden_channels=24, but its weights"),
    ],
)
def test_a_checkpoint_that_is_not_whole_says_what_is_off(tmp_path, adata, weights, spoil, message):
    with pytest.raises(ValueError, match=message):
        read(saved(spoil(weights)), tmp_path, adata)
    assert not adata.obsp


def test_a_missing_file_is_that(tmp_path, adata, weights):
    path = write(tmp_path / "checkpoint.pt", weights)
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        sagefm.SAGEFM.from_reference_checkpoint(tmp_path / "absent.pt", adata.var_names, adata)
    for name in ("absent.npy", "absent.txt"):
        with pytest.raises(FileNotFoundError, match=name):
            sagefm.SAGEFM.from_reference_checkpoint(path, tmp_path / name, adata)


@pytest.mark.parametrize("n_genes", [149, 151, 0])
def test_a_gene_list_of_another_length_is_named(load, adata, weights, n_genes):
    names = [f"GENE{number}" for number in range(n_genes)]
    with pytest.raises(ValueError, match=f"The checkpoint has 150 genes, the list of gene names {n_genes}"):
        load(adata, weights, names)


def test_a_gene_list_with_duplicates_is_named(load, adata, weights):
    with pytest.raises(ValueError, match="1 gene names of the checkpoint stand more than once, for example 'GENE0001'"):
        load(adata, weights, ["GENE0001", *adata.var_names[:-1]])


def test_a_gene_list_that_is_not_plain_is_not_read(load, adata, weights, tmp_path):
    path, evil = tmp_path / "genes.npy", Touch(tmp_path / "created")
    np.save(path, np.array([*adata.var_names[:-1], evil], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"genes\.npy is not a NumPy file of plain strings.*names\.astype\(str\)"):
        load(adata, weights, path)
    assert not evil.path.exists()

    np.save(path, np.arange(150.0))
    with pytest.raises(ValueError, match=r"genes\.npy holds float64, not the names of genes"):
        load(adata, weights, path)
    with open(path, "wb") as file:
        np.savez(file, genes=adata.var_names.to_numpy(dtype=str))
    with pytest.raises(ValueError, match=r"genes\.npy holds several arrays, not the names"):
        load(adata, weights, path)
    np.save(path, adata.var_names.to_numpy(dtype=str))
    whole = path.read_bytes()
    for n_bytes in (0, 5, 100, len(whole) // 2):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"genes\.npy is not a NumPy file"):
            load(adata, weights, path)
    (tmp_path / "genes.txt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"genes\.txt is no text file"):
        load(adata, weights, tmp_path / "genes.txt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_become_float32(load, adata, weights, dtype):
    model = load(adata, {key: value.to(dtype) for key, value in weights.items()})
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    rounded = {key: value.to(dtype).float() for key, value in weights.items()}
    np.testing.assert_array_equal(latent_of(model), latent_of(load(adata, rounded)))


def test_what_stands_beside_the_weights_is_ignored(tmp_path, adata, weights, model):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-5)
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    beside = {
        "epoch": 126,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {"best": plateau.best, "num_bad_epochs": plateau.num_bad_epochs},
        "val_losses": [0.2, 0.1],
        "mask_ratio": 0.3,
        "hidden_channels": (24, 16, 12),
    }
    for new in (True, False):
        content = saved({"model_state_dict": weights, **beside}, _use_new_zipfile_serialization=new)
        np.testing.assert_array_equal(latent_of(read(content, tmp_path, adata)), latent_of(model))


# After loading.


def test_a_loaded_model_embeds_imputes_and_scores(model, adata):
    assert "trained" in repr(model) and "untrained" not in repr(model)
    latent = model.get_latent_representation()
    assert latent.shape == (adata.n_obs, 12) and latent.dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_sagefm"], latent)
    assert np.isfinite(model.impute_masked(genes=adata.var_names[:3])).all(axis=None)
    recovery = model.get_masked_recovery()
    assert len(recovery) == adata.n_vars and 0 <= recovery.attrs["share_p05"] <= 1


@pytest.mark.parametrize("n_lacking", [0, 30])
def test_saved_and_loaded_it_is_the_same(load, adata, weights, tmp_path, n_lacking):
    genes, adata = adata.var_names, adata[:, n_lacking:].copy()
    model = load(adata, weights, genes)
    model.save(tmp_path / "saved")
    again = sagefm.SAGEFM.load(tmp_path / "saved", adata, accelerator="cpu")
    assert list(again.genes) == list(genes)
    np.testing.assert_array_equal(latent_of(again), latent_of(model))


def test_it_can_be_trained_further(model):
    latent = latent_of(model)
    scvi.settings.seed = 0
    training = {**sagefm.SAGEFM.published_training(), "plan_kwargs": {"lr": 1e-3}}
    model.train(**training, max_epochs=3, **QUIET)
    for name in ("train_loss", "validation_loss"):
        loss = model.history[name][name].astype(float)
        assert loss.index.tolist() == [0, 1, 2] and loss.iloc[-1] < loss.iloc[0]
    assert not np.allclose(latent_of(model), latent)
    assert (model.module.gene_scale == 1).all()


def test_another_section_is_given_its_14_nearest_too(load, model, adata, weights):
    other = adata[40:].copy()
    del other.obsp[GRAPH]
    latent = latent_of(model, other)
    assert (np.diff(other.obsp[GRAPH].indptr) == 14).all()
    del other.obsp[GRAPH]
    assert_same(latent, latent_of(load(other, weights)))


@pytest.mark.parametrize("widths", [[24, 16, 12], [256, 128, 128, 128, 256]], ids=str)
def test_bfloat16_is_near_and_gives_float32(load, adata, widths):
    model = load(adata, random_weights(adata.n_vars, widths))
    latent = latent_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = latent_of(model)
        imputed = model.impute_masked(genes=adata.var_names[:5])
        recovery = model.get_masked_recovery().attrs
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - latent).max() < 0.02 * np.abs(latent).max()
    exact = model.impute_masked(genes=adata.var_names[:5]).to_numpy()
    assert np.abs(imputed.to_numpy() - exact).max() < 0.02 * exact.max()
    assert abs(recovery["median_r"] - model.get_masked_recovery().attrs["median_r"]) < 0.02
