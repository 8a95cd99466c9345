"""Spots and the means of their neighbours, by gene name, from memory and from files."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader

import sagefm
from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    NeighborhoodDataset,
    chunks,
    gene_moments,
)

ROWS = np.array([100, 3, 57, 58, 3])


@pytest.fixture
def section(tissue: ad.AnnData) -> ad.AnnData:
    """A section that was set up, with a spot (7) without neighbours."""
    adata = tissue.copy()
    sagefm.SAGEFM.setup_anndata(adata)
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[7] = 0
    adata.obsp["spatial_connectivities"] = graph.tocsr()
    return adata


def log_by_hand(counts: np.ndarray, like: ad.AnnData, mask: np.ndarray) -> np.ndarray:
    """Scale counts to the median library size of `like`, by the unmasked genes and their share in its counts."""
    model_counts = like.X.toarray().astype(float)
    share = (~mask * model_counts.sum(axis=0) / model_counts.sum()).sum(axis=-1, keepdims=True)
    size = (counts * ~mask).sum(axis=1, keepdims=True) / share
    return np.log1p(counts * ~mask * np.median(model_counts.sum(axis=1)) / size)


def means_by_hand(logged: np.ndarray, adata: ad.AnnData) -> np.ndarray:
    edges = adata.obsp["spatial_connectivities"].toarray() > 0
    return np.stack([logged[row].mean(axis=0) if row.any() else np.zeros(logged.shape[1]) for row in edges])


def assert_batch(batch: dict, rows: np.ndarray, counts: np.ndarray, means: np.ndarray, adata: ad.AnnData) -> None:
    degree = (adata.obsp["spatial_connectivities"].toarray() > 0).sum(axis=1)
    assert np.array_equal(batch[REGISTRY_KEYS.X_KEY], counts[rows])
    np.testing.assert_allclose(batch[NEIGHBORS_KEY], means[rows], rtol=1e-5, atol=1e-6)
    assert np.array_equal(batch[N_NEIGHBORS_KEY], degree[rows][:, None])


# Batches.


@pytest.mark.parametrize("rows", [ROWS, np.array([7]), np.arange(192)], ids=["some", "isolated", "all"])
def test_a_batch_equals_one_made_by_hand(section, spots_of, rows):
    counts = section.X.toarray()
    logged = log_by_hand(counts, section, np.zeros(section.n_vars, dtype=bool))
    batch = NeighborhoodDataset(spots_of(section))[rows]
    assert_batch(batch, rows, counts, means_by_hand(logged, section), section)


def test_a_batch_without_normalisation_equals_one_made_by_hand(section, spots_of):
    counts = section.X.toarray()
    batch = NeighborhoodDataset(spots_of(section, method="none"))[ROWS]
    assert_batch(batch, ROWS, counts, means_by_hand(np.log1p(counts), section), section)


def test_a_spot_is_not_part_of_the_mean_of_its_neighbours(section, spots_of):
    other = section.copy()
    other.X = sp.csr_matrix(other.X.toarray() + 90 * (np.arange(other.n_obs) == 57)[:, None], dtype=np.float32)
    spots, changed = spots_of(section), spots_of(other, like=section)
    assert np.array_equal(spots.neighborhood_means(np.array([57])), changed.neighborhood_means(np.array([57])))
    adjacent = section.obsp["spatial_connectivities"][:, [57]].tocoo().row[:1]
    assert not np.array_equal(spots.neighborhood_means(adjacent), changed.neighborhood_means(adjacent))


def test_a_batch_is_float32_and_marks_the_genes_missing_from_the_panel(section, spots_of):
    batch = NeighborhoodDataset(spots_of(section))[ROWS]
    for key in (REGISTRY_KEYS.X_KEY, NEIGHBORS_KEY, N_NEIGHBORS_KEY):
        assert batch[key].dtype == np.float32
    assert np.array_equal(batch[ABSENT_KEY], np.zeros((1, section.n_vars), bool))


def test_counts_are_sparse_until_they_are_put_into_a_batch(section, spots_of):
    spots = spots_of(section)
    assert isinstance(spots.counts(ROWS), sp.csr_matrix)
    assert isinstance(spots.log(ROWS), sp.csr_matrix)


def test_a_loader_of_scvi_tools_goes_over_the_spots_in_order(section, spots_of):
    dataset = NeighborhoodDataset(spots_of(section))
    batches = list(AnnDataLoader(dataset, indices=np.arange(150), batch_size=64, shuffle=False))
    assert [len(batch[REGISTRY_KEYS.X_KEY]) for batch in batches] == [64, 64, 22]
    whole = dataset[np.arange(150)]
    for key in (REGISTRY_KEYS.X_KEY, NEIGHBORS_KEY, N_NEIGHBORS_KEY):
        np.testing.assert_allclose(np.concatenate([batch[key] for batch in batches]), whole[key], rtol=1e-6)
    assert all((batch[SECTION_KEY] == 0).all() for batch in batches)
    for key in whole.keys() & {ABSENT_KEY, UNIT_MEAN_KEY, UNIT_SCALE_KEY}:  # one row for all spots
        assert len(whole[key]) == 1 and all(np.array_equal(batch[key], whole[key]) for batch in batches)


def test_the_length_of_a_dataset_is_the_number_of_spots(section, spots_of):
    assert len(NeighborhoodDataset(spots_of(section))) == section.n_obs


def test_a_closed_dataset_has_no_spots(section, spots_of):
    dataset = NeighborhoodDataset(spots_of(section))
    dataset.close()
    with pytest.raises(RuntimeError, match="The counts were released at the end of training; make a new splitter"):
        dataset[[0]]


# Means without masked entries.


def test_means_without_masked_entries_equal_those_by_hand(section, spots_of):
    mask = np.random.default_rng(0).random(section.shape) < 0.4
    logged = log_by_hand(section.X.toarray(), section, mask)
    means, n = spots_of(section).neighborhood_means_without(ROWS, mask)
    edges = section.obsp["spatial_connectivities"].toarray()[ROWS] > 0
    expected = edges.astype(float) @ ~mask
    assert np.array_equal(n, expected)
    np.testing.assert_allclose(means, edges @ logged / np.maximum(expected, 1), rtol=1e-5, atol=1e-6)


def test_masked_counts_of_neighbours_do_not_change_the_means_without_them(section, spots_of):
    mask = np.random.default_rng(1).random(section.shape) < 0.4
    other = section.copy()
    other.X = sp.csr_matrix(np.where(mask, 77, section.X.toarray()).astype(np.float32))
    expected = spots_of(section).neighborhood_means_without(ROWS, mask)
    changed = spots_of(other, like=section).neighborhood_means_without(ROWS, mask)
    assert all(np.array_equal(found, before) for found, before in zip(changed, expected, strict=True))


# Genes in another order, missing from the panel, or not in the model.


def test_genes_in_another_order_give_the_same_batch(section, spots_of):
    shuffled = section[:, np.random.default_rng(0).permutation(section.n_vars)].copy()
    expected = NeighborhoodDataset(spots_of(section))[ROWS]
    for key, value in NeighborhoodDataset(spots_of(shuffled, like=section))[ROWS].items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-7)


def test_missing_genes_are_zero_and_unknown_genes_are_ignored(section, spots_of):
    present = np.random.default_rng(1).permutation(section.n_vars)[:100]
    panel = section[:, present].copy()
    panel.var_names = [*panel.var_names[:90], *(f"UNKNOWN{i}" for i in range(10))]
    known = np.isin(np.arange(section.n_vars), present[:90])
    counts = section.X.toarray() * known
    means = means_by_hand(log_by_hand(counts, section, ~known), section)
    spots = spots_of(panel, like=section)
    assert np.array_equal(spots.known, known) and np.array_equal(spots.masked, ~known)
    batch = NeighborhoodDataset(spots)[ROWS]
    assert_batch(batch, ROWS, counts, means, section)
    assert np.array_equal(batch[ABSENT_KEY], ~known[None])


def test_masked_genes_are_in_the_counts_but_not_on_the_log_scale(section, spots_of):
    masked = np.arange(section.n_vars) % 4 == 0
    spots = spots_of(section, masked)
    logged = log_by_hand(section.X.toarray(), section, masked)
    assert np.array_equal(spots.counts(ROWS).toarray(), section.X.toarray()[ROWS])
    np.testing.assert_allclose(spots.log(ROWS).toarray(), logged[ROWS], rtol=1e-5)
    np.testing.assert_allclose(spots.neighborhood_means(ROWS), means_by_hand(logged, section)[ROWS], rtol=1e-5)


# Counts in a file.


@pytest.fixture(params=["sparse", "sparse by columns", "dense", "layer"])
def backed(request: pytest.FixtureRequest, section: ad.AnnData, tmp_path: Path):
    """The section in a file, with genes in another order, and how to set it up."""
    stored = section[:, ::-1].copy()
    layer = None
    if request.param == "layer":
        layer, stored.layers["counts"] = "counts", stored.X
    else:
        stored.X = {"sparse": sp.csr_matrix, "sparse by columns": sp.csc_matrix, "dense": sp.csr_matrix.toarray}[
            request.param
        ](stored.X)
    stored.write_h5ad(tmp_path / "section.h5ad")
    adata = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    sagefm.SAGEFM.setup_anndata(adata, layer=layer)
    yield adata
    adata.file.close()


def test_batches_from_a_file_equal_those_from_memory(backed, spots_of):
    from_file = NeighborhoodDataset(spots_of(backed))[ROWS]
    in_memory = backed.to_memory()
    sagefm.SAGEFM.setup_anndata(in_memory, layer="counts" if in_memory.layers else None)
    for key, value in NeighborhoodDataset(spots_of(in_memory))[ROWS].items():
        np.testing.assert_allclose(from_file[key], value, rtol=1e-5, atol=1e-7)


def test_batches_for_another_model_from_a_file_equal_those_from_memory(backed, section, spots_of):
    layer = "counts" if backed.layers else None
    section.layers["counts"] = section.X
    sagefm.SAGEFM.setup_anndata(section, layer=layer)
    from_file = NeighborhoodDataset(spots_of(backed, like=section))[ROWS]
    for key, value in NeighborhoodDataset(spots_of(section))[ROWS].items():
        np.testing.assert_allclose(from_file[key], value, rtol=1e-5, atol=1e-7)


def test_masked_genes_are_masked_in_a_file_as_well(backed, section, spots_of):
    masked = np.arange(section.n_vars) % 4 == 0
    spots = spots_of(backed, masked[::-1])
    logged = log_by_hand(section.X.toarray(), section, masked)
    np.testing.assert_allclose(spots.log(ROWS).toarray()[:, ::-1], logged[ROWS], rtol=1e-5)
    means = means_by_hand(logged, section)[ROWS]
    np.testing.assert_allclose(spots.neighborhood_means(ROWS)[:, ::-1], means, rtol=1e-5)


def test_a_file_read_in_pieces_gives_the_same(backed, spots_of):
    spots = spots_of(backed)
    pieces = [spots.log(piece) for piece in chunks(np.arange(192), 50)]
    assert [piece.shape[0] for piece in pieces] == [50, 50, 50, 42]
    assert np.array_equal(sp.vstack(pieces).toarray(), spots.log(np.arange(192)).toarray())


# Moments of genes.


@pytest.mark.parametrize("rows", [np.arange(192), ROWS, np.tile(np.arange(192), 24)], ids=["all", "some", "many"])
def test_moments_are_mean_and_standard_deviation_on_the_log_scale(section, spots_of, rows):
    logged = log_by_hand(section.X.toarray(), section, np.zeros(section.n_vars, dtype=bool))[rows]
    mean, deviation = spots_of(section).gene_moments(rows)
    np.testing.assert_allclose(mean, logged.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation, logged.std(axis=0), rtol=1e-5, atol=1e-7)


def test_a_gene_that_does_not_vary_has_no_standard_deviation(section, spots_of):
    section.X = sp.csr_matrix(np.full(section.shape, 3, dtype=np.float32))
    sagefm.SAGEFM.setup_anndata(section)
    mean, deviation = spots_of(section).gene_moments(np.arange(192))
    np.testing.assert_allclose(mean, np.log1p(3), rtol=1e-5)
    np.testing.assert_allclose(deviation, 0, atol=1e-5)


def test_moments_from_a_file_equal_those_from_memory(backed, spots_of):
    from_file = spots_of(backed).gene_moments(ROWS)
    in_memory = backed.to_memory()
    sagefm.SAGEFM.setup_anndata(in_memory, layer="counts" if in_memory.layers else None)
    np.testing.assert_allclose(from_file, spots_of(in_memory).gene_moments(ROWS), rtol=1e-6)


def test_moments_over_several_panels_are_those_of_the_spots_that_have_the_gene(section, spots_of):
    whole, panel = spots_of(section), spots_of(section[:, 30:].copy(), like=section)
    mean, deviation = gene_moments([(whole, np.arange(100)), (panel, np.arange(100, 192))], section.n_vars)
    for found, expected in zip((mean, deviation), whole.gene_moments(np.arange(100)), strict=True):
        np.testing.assert_allclose(found[:30], expected[:30], rtol=1e-5)
    logged = np.concatenate([whole.log(np.arange(100)).toarray(), panel.log(np.arange(100, 192)).toarray()])[:, 30:]
    np.testing.assert_allclose(mean[30:], logged.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation[30:], logged.std(axis=0), rtol=1e-5)
