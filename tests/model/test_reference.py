"""The published model gives the same numbers as PyTorch Geometric on explicit ego graphs.

The reference below shares no code with the package: it copies the spots of each ego graph, connects every pair of them
and convolves all of them.
"""

import os
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
from sagefm.data import Units, registered_spots
from sagefm.module import OnePass

GRAPH = "spatial_knn14_connectivities"
ROUNDING = 1e-5  # of float32, relative to the largest number of an array
PUBLISHED = [1024, 512, 512, 512, 1024]
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}

Weights = dict[str, Tensor]


# Checkpoints of random weights, and the published computation, explicitly.


def random_weights(n_genes: int, widths: Sequence[int], seed: int = 0) -> Weights:
    """Return weights as in the published files; activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for number, (n_in, n_out) in enumerate(pairwise([n_genes, *widths]), start=1):
        weights[f"conv{number}.lin.weight"] = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        weights[f"conv{number}.bias"] = torch.randn(n_out, generator=generator) / 10
    weights["fc_gene.weight"] = torch.randn(n_genes, widths[-1], generator=generator) / widths[-1] ** 0.5
    weights["fc_gene.bias"] = torch.rand(n_genes, generator=generator)
    return weights


def write(path: Path, weights: Weights) -> Path:
    torch.save({"model_state_dict": weights}, path)
    return path


def ego_graphs(counts: np.ndarray, graph: sp.csr_matrix, centers: Sequence[int]) -> Tensor:
    """Return the log counts of each centre and then of its 14 neighbours, (centres, 15, genes)."""
    nodes = [np.concatenate([[center], graph[[center]].indices]) for center in centers]
    assert {len(members) for members in nodes} == {15}
    return torch.from_numpy(np.log1p(counts[np.stack(nodes)]).astype(np.float32))


@torch.inference_mode()
def published(weights: Weights, nodes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and predictions of the centres of ego graphs; all nodes are connected and convolved."""
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
    """Compare with the reference: unmasked, with 30 % of the centres' entries masked, and with 10 % of genes masked."""
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
    spots = registered_spots(model.adata_manager, model.module.normalization)
    one_pass = OnePass(model.module, spots).masked(centers, mask[:, columns])
    assert_same(np.concatenate([piece.latent.numpy() for piece in one_pass]), embedding)
    imputed = model.impute_masked(mask=mask, indices=centers).to_numpy()[:, columns]
    requested = mask[centers][:, columns]
    np.testing.assert_array_equal(np.isfinite(imputed), requested)
    assert_same(imputed[requested], predicted[requested])

    genes = rng.permutation(len(model.genes))[: len(model.genes) // 10]
    without = nodes.clone()
    without[:, :, genes] = 0
    predicted = published(weights, without)[1][:, genes]
    assert_same(model.impute_masked(genes=model.genes[genes], indices=centers).to_numpy(), predicted)


@pytest.mark.parametrize(
    "widths", [[1, 1], [32, 8], [8, 32], [24, 16, 12], [40, 20, 20, 20, 40], [16] * 7], ids=lambda widths: str(widths)
)
def test_embeddings_and_predictions_equal_those_of_pytorch_geometric(load, adata, widths):
    weights = random_weights(adata.n_vars, widths, seed=len(widths))
    assert_exact(load(adata, weights), adata, weights, np.arange(adata.n_obs))


@pytest.mark.parametrize("name", ["tnbc_bassiouni2023__120E", "her2st_andersson2021__A1"])
def test_they_are_equal_at_the_published_sizes_on_a_real_section(load, real_section, name):
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

    # Genes missing from the section are zeros in the reference.
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
    requested = np.zeros((len(centers), len(genes)), dtype=bool)
    requested[:, known] = mask[centers][:, adata.var_names.get_indexer(genes[known])]
    mask[:, ~adata.var_names.isin(genes)] = False  # not genes of the checkpoint
    masked = nodes.clone()
    masked[:, 0] *= torch.from_numpy(~requested)
    predicted = published(weights, masked)[1]
    imputed = model.impute_masked(mask=mask, indices=centers).reindex(columns=genes).to_numpy()
    np.testing.assert_array_equal(np.isfinite(imputed), requested)
    assert_same(imputed[requested], predicted[requested])

    half = np.random.default_rng(2).permutation(len(genes))[: len(genes) // 2]
    without = nodes.clone()
    without[:, :, half] = 0
    predicted = published(weights, without)[1][:, half]
    assert_same(model.impute_masked(genes=genes[half], indices=centers).to_numpy(), predicted)


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


def test_the_optimiser_has_the_published_settings():
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


def test_gene_names_come_from_a_file_or_a_sequence(load, model, adata, weights, tmp_path):
    np.save(tmp_path / "genes.npy", adata.var_names.to_numpy(dtype=str))
    for source in (tmp_path / "genes.npy", str(tmp_path / "genes.npy"), list(adata.var_names)):
        again = load(adata.copy(), weights, source)
        assert list(again.genes) == list(adata.var_names)
        np.testing.assert_array_equal(latent_of(again), latent_of(model))


def test_genes_may_be_in_another_order(load, model, adata, weights):
    order = np.random.default_rng(0).permutation(adata.n_vars)
    other = adata[:, order].copy()
    assert_same(latent_of(load(other, weights, adata.var_names)), latent_of(model))
    assert_same(latent_of(model, other), latent_of(model))


def test_a_missing_gene_is_a_column_of_zeros_and_is_logged(load, adata, weights, caplog):
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
    some = list(genes[45:55])
    assert_same(model.impute_masked(genes=some).to_numpy(), of_zeros.impute_masked(genes=some).to_numpy())
    assert len(model.get_masked_recovery()) == 100


def test_genes_that_are_not_in_the_checkpoint_are_ignored(load, adata, weights, model):
    novel = ad.AnnData(sp.csr_matrix(np.full((adata.n_obs, 30), 9, dtype=np.float32)), obs=adata.obs[[]])
    novel.var_names = [f"NOVEL{number}" for number in range(30)]
    wider = ad.concat([novel, adata], axis=1)
    wider.obsm["spatial"] = adata.obsm["spatial"]
    assert_same(latent_of(load(wider, weights, adata.var_names)), latent_of(model))


def test_three_percent_of_the_genes_are_too_few_and_nothing_is_written(load, adata, weights):
    names = [*adata.var_names[:4], *(f"OTHER{number}" for number in range(adata.n_vars - 4))]
    with pytest.raises(ValueError, match=r"has 4 of the model's 150 genes \(2.7%\); at least 10%"):
        load(adata, weights, names)
    assert not adata.obsp and not adata.uns.get("_scvi_uuid")


def test_layer_and_gene_symbols_are_passed_to_setup(load, model, adata, weights):
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
    """Return the sum of the distances to the 14 nearest: ties may be broken either way."""
    distances = np.linalg.norm(coordinates[:, None] - coordinates[None], axis=2)
    return np.sort(distances, axis=1)[:, 1:15].sum(axis=1)


def connected(adata: ad.AnnData) -> list[float]:
    coordinates, edges = adata.obsm["spatial"], sp.coo_matrix(adata.obsp[GRAPH])
    distances = np.linalg.norm(coordinates[edges.row] - coordinates[edges.col], axis=1)
    return np.bincount(edges.row, distances, minlength=adata.n_obs)


def test_every_spot_is_connected_to_its_14_nearest_and_another_graph_is_kept(load, adata, weights):
    sagefm.SAGEFM.setup_anndata(adata)
    lattice = adata.obsp["spatial_connectivities"].copy()
    load(adata, weights)
    assert (np.diff(adata.obsp[GRAPH].indptr) == 14).all() and adata.obsp[GRAPH].diagonal().sum() == 0
    np.testing.assert_allclose(connected(adata), nearest(adata.obsm["spatial"]))
    assert (adata.obsp["spatial_connectivities"] != lattice).nnz == 0
    assert (np.diff(lattice.indptr) > 14).any()


def test_sections_are_connected_separately(load, weights):
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


def test_a_graph_that_lost_spots_or_connects_sections_is_built_again(load, weights):
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150)
    load(adata, weights)
    part = adata[:60].copy()
    load(part, weights)
    np.testing.assert_allclose(connected(part), nearest(part.obsm["spatial"]))
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < adata.n_obs // 2, "a", "b")
    load(adata, weights, sample_key="half")
    edges = sp.coo_matrix(adata.obsp[GRAPH])
    assert (adata.obs["half"].to_numpy()[edges.row] == adata.obs["half"].to_numpy()[edges.col]).all()


def test_an_existing_graph_of_14_neighbours_is_kept(load, adata, weights):
    ring = sum(sp.eye_array(adata.n_obs, k=k) for n in range(1, 15) for k in (n, n - adata.n_obs))
    adata.obsp[GRAPH] = sp.csr_matrix(ring, dtype=np.float32)
    model = load(adata, weights)
    assert_exact(model, adata, weights, np.arange(20))
    assert adata.obsp[GRAPH][0].indices.tolist() == list(range(1, 15))


def test_a_section_without_coordinates_or_with_too_few_spots_is_refused(load, adata, weights):
    with pytest.raises(ValueError, match=r"has 10 spot\(s\).*at least 15"):
        load(adata[:10].copy(), weights)
    with pytest.raises(KeyError, match="neither a neighbour graph nor coordinates"):
        load(adata, weights, spatial_key="pixels")


# Files that cannot be read; see tests/weights/test_published.py for all kinds.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is damaged: its end is missing"),
        (lambda path: write(path, random_weights(149, [24, 12])), "has 149 genes, the list of gene names 150"),
    ],
    ids=["empty", "truncated", "other genes"],
)
def test_a_file_that_is_refused_leaves_the_section_unchanged(tmp_path, adata, weights, change, message):
    path = write(tmp_path / "checkpoint.pt", weights)
    change(path)
    with pytest.raises(ValueError, match=message):
        sagefm.SAGEFM.from_reference_checkpoint(path, adata.var_names, adata)
    assert not adata.obsp and not adata.uns.get("_scvi_uuid")


def test_paths_may_begin_with_a_tilde(model, adata, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "checkpoint.pt", weights)
    (tmp_path / "genes.txt").write_text("\n".join(adata.var_names))
    again = sagefm.SAGEFM.from_reference_checkpoint("~/checkpoint.pt", "~/genes.txt", adata.copy())
    np.testing.assert_array_equal(latent_of(again), latent_of(model))


# After loading.


def test_a_loaded_model_embeds_imputes_and_scores(model, adata):
    assert "trained" in repr(model) and "untrained" not in repr(model)
    latent = model.get_latent_representation()
    assert latent.shape == (adata.n_obs, 12) and latent.dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_sagefm"], latent)
    assert np.isfinite(model.impute_masked(genes=adata.var_names[:3])).all(axis=None)
    recovery = model.get_masked_recovery()
    assert len(recovery) == adata.n_vars and 0 <= recovery.attrs["share_p05_naive"] <= 1


@pytest.mark.parametrize("n_lacking", [0, 30])
def test_a_saved_model_loads_into_the_same_model(load, adata, weights, tmp_path, n_lacking):
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
    assert (model.module.normalization.gene_scale == 1).all()


def test_another_section_is_connected_to_its_14_nearest_too(load, model, adata, weights):
    other = adata[40:].copy()
    del other.obsp[GRAPH]
    latent = latent_of(model, other)
    assert (np.diff(other.obsp[GRAPH].indptr) == 14).all()
    del other.obsp[GRAPH]
    assert_same(latent, latent_of(load(other, weights)))


@pytest.mark.parametrize("widths", [[24, 16, 12], [256, 128, 128, 128, 256]], ids=str)
def test_bfloat16_is_close_and_gives_float32(load, adata, widths):
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
