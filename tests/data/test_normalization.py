"""Log-normalised expression: equal to scanpy's if nothing is masked, and independent of masked counts."""

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sagefm
from sagefm.data import Normalization, Units, log_scaled, with_current_names
from sagefm.module import MaskedCenterModule

N_SPOTS, N_GENES = 4, 6
PROFILE = np.array([0.3, 0.25, 0.2, 0.15, 0.1, 0], dtype=np.float32)  # the last gene was never counted
METHODS = ["size", "none"]
NOTHING = np.zeros(N_GENES, dtype=bool)  # masked

counts_of_any_size = arrays(np.float32, (N_SPOTS, N_GENES), elements=st.integers(0, 5000).map(float))
masks = arrays(bool, (N_SPOTS, N_GENES))
masked_genes = arrays(bool, N_GENES)
quick = settings(max_examples=50, deadline=None)


def normalization(method: str = "size") -> Normalization:
    return Normalization(method, 100.0, PROFILE)


def sparse_log(counts: np.ndarray, masked: np.ndarray, method: str = "size") -> np.ndarray:
    return normalization(method).log_sparse(sp.csr_matrix(counts), masked).toarray()


def dense_log(counts: np.ndarray, mask: np.ndarray, method: str = "size") -> np.ndarray:
    return log_and_factor(counts, mask, method)[0].numpy()


def log_and_factor(counts: np.ndarray, mask: np.ndarray, method: str = "size") -> tuple[torch.Tensor, torch.Tensor]:
    values, mask = torch.from_numpy(counts), torch.from_numpy(mask)
    return normalization(method).log_dense(values, mask), normalization(method).factor(values, mask)


# The scale.


def test_without_a_mask_it_equals_that_of_scanpy(adata, spots_of):
    sagefm.SAGEFM.setup_anndata(adata)
    spots, every = spots_of(adata), np.arange(adata.n_obs)
    expected = sc.pp.normalize_total(adata, target_sum=np.median(adata.X.toarray().sum(axis=1)), inplace=False)["X"]
    expected = np.log1p(expected.toarray())
    counts, mask = torch.from_numpy(spots.counts(every).toarray()), torch.zeros(adata.shape, dtype=torch.bool)
    np.testing.assert_allclose(spots.log(every).toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(spots.normalization.log_dense(counts, mask).numpy(), expected, rtol=1e-5)


def test_without_normalisation_it_is_log1p_of_raw_counts(adata, spots_of):
    sagefm.SAGEFM.setup_anndata(adata)
    logged = spots_of(adata, method="none").log(np.arange(adata.n_obs))
    np.testing.assert_allclose(logged.toarray(), np.log1p(adata.X.toarray()), rtol=1e-6)


@quick
@given(counts_of_any_size, masks)
def test_without_normalisation_a_mask_only_sets_entries_to_zero(counts, mask):
    np.testing.assert_allclose(dense_log(counts, mask, "none"), np.log1p(counts) * ~mask, rtol=1e-6)


@quick
@given(counts_of_any_size, masked_genes)
def test_the_library_size_is_estimated_from_unmasked_genes(counts, masked):
    total, share = counts[:, ~masked].sum(axis=1), PROFILE[~masked].sum()
    expected = np.where(total > 0, total / max(share, 1e-12), 100)
    for mask in (masked[None], np.tile(masked, (N_SPOTS, 1))):
        factor = normalization().depth_factor(torch.from_numpy(counts), torch.from_numpy(mask))
        np.testing.assert_allclose(100 / factor.numpy().ravel(), expected, rtol=1e-5)


def test_masking_genes_that_follow_the_profile_does_not_change_the_others():
    counts = (PROFILE * 400)[None].astype(np.float32)
    masked = np.array([False, True, False, True, False, False])
    found, expected = sparse_log(counts, masked), sparse_log(counts, NOTHING)
    np.testing.assert_allclose(found[:, ~masked], expected[:, ~masked], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, masked=masked_genes)
def test_sparse_and_dense_counts_give_the_same(method, counts, masked):
    dense = dense_log(counts, np.broadcast_to(masked, counts.shape).copy(), method)
    np.testing.assert_allclose(sparse_log(counts, masked, method), dense, rtol=1e-5, atol=1e-7)


@quick
@given(counts_of_any_size, masks)
def test_the_factor_leads_back_from_the_log_scale_to_the_counts(counts, mask):
    logged, factor = log_and_factor(counts, mask)
    back = (torch.expm1(logged.double()) / factor).numpy()
    np.testing.assert_allclose(back, counts * ~mask, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_sparse_counts_are_left_unchanged(method):
    counts = sp.random(20, N_GENES, 0.5, format="csr", dtype=np.float32, random_state=0)
    before = counts.copy()
    normalization(method).log_sparse(counts, NOTHING)
    assert np.array_equal(counts.toarray(), before.toarray())


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_counts_are_scaled_by_the_factor_of_each_spot(shape):
    counts = sp.random(20, N_GENES, 0.5, format="csr", random_state=0)
    factor = np.random.default_rng(0).random(shape)
    expected = np.log1p(counts.toarray() * factor.reshape(-1, 1))
    np.testing.assert_allclose(log_scaled(counts, factor).toarray(), expected, rtol=1e-6)


# No leak: masked counts change no bit of what is not masked.


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, others=counts_of_any_size, mask=masks)
def test_masked_counts_change_nothing_that_is_not_masked(method, counts, others, mask):
    changed = np.where(mask, others, counts)
    one, other = (log_and_factor(x, mask, method) for x in (counts, changed))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, others=counts_of_any_size, masked=masked_genes)
def test_masked_genes_change_nothing_that_is_not_masked(method, counts, others, masked):
    changed = np.where(masked, others, counts)
    assert np.array_equal(sparse_log(counts, masked, method), sparse_log(changed, masked, method))


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, mask=masks)
def test_masked_entries_are_zero(method, counts, mask):
    assert (dense_log(counts, mask, method)[mask] == 0).all()


def test_unmasked_counts_do_change_the_others():
    counts = np.full((1, N_GENES), 10, dtype=np.float32)
    more = counts + np.eye(N_GENES, dtype=np.float32)[:1] * 50
    assert (dense_log(counts, NOTHING[None])[:, 1:] > dense_log(more, NOTHING[None])[:, 1:]).all()


@pytest.mark.parametrize("method", METHODS)
def test_masked_counts_of_a_spot_do_not_reach_the_network(method):
    torch.manual_seed(0)
    module = MaskedCenterModule(
        normalization(method), [N_GENES, 5, 3], conv="sage", dropout_rate=0, mask_fraction=0.3
    ).eval()
    counts, mask = torch.poisson(torch.full((9, N_GENES), 5.0)), torch.rand(9, N_GENES) < 0.5
    absent, neighbors = torch.zeros(9, N_GENES, dtype=torch.bool), torch.rand(9, N_GENES)
    n_neighbors = torch.full((9, 1), 6.0)
    latent = module.inference(counts, mask, absent, neighbors, n_neighbors, Units())["z"]
    other = module.inference(counts + 1000 * mask, mask, absent, neighbors, n_neighbors, Units())["z"]
    assert torch.equal(latent, other)


def test_genes_masked_everywhere_reach_neither_a_spot_nor_its_neighbours(adata, spots_of):
    masked = np.arange(adata.n_vars) % 3 == 0
    other = adata.copy()
    other.X = sp.csr_matrix(np.where(masked, 50, adata.X.toarray()).astype(np.float32))
    sagefm.SAGEFM.setup_anndata(adata)
    every = np.arange(adata.n_obs)
    (log, means), (other_log, other_means) = (
        (spots.log(every).toarray(), spots.neighborhood_means(every))
        for spots in (spots_of(adata, masked), spots_of(other, masked, like=adata))
    )
    assert np.array_equal(log, other_log)
    assert np.array_equal(means, other_means)
    assert (log[:, masked] == 0).all() and (means[:, masked] == 0).all()
    assert log[:, ~masked].any() and means[:, ~masked].any()


# Nothing to normalise by.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "unmasked", [[], [5], [0]], ids=["nothing", "a gene never counted before", "a gene without counts"]
)
def test_a_spot_with_next_to_nothing_unmasked_is_finite(method, unmasked):
    counts, masked = np.array([[0, 9, 9, 9, 9, 9]], dtype=np.float32), ~NOTHING
    masked[unmasked] = False
    logged, factor = log_and_factor(counts, masked[None], method)
    assert torch.isfinite(logged).all() and torch.isfinite(factor).all() and (factor > 0).all()
    assert np.isfinite(sparse_log(counts, masked, method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_spot_whose_genes_are_all_masked_is_zero(method):
    counts = np.full((1, N_GENES), 7, dtype=np.float32)
    assert (dense_log(counts, ~NOTHING[None], method) == 0).all()
    assert (sparse_log(counts, ~NOTHING, method) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_library_sizes_have_full_precision_in_mixed_training(dtype):
    counts = torch.from_numpy(np.random.default_rng(0).poisson(20_000, (5, N_GENES)).astype(np.float32))
    for n_rows in (1, 5):
        mask = torch.zeros(n_rows, N_GENES, dtype=torch.bool)
        exact = normalization().factor(counts, mask)
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(normalization().factor(counts, mask), exact, rtol=1e-6, atol=0)


# The moments of training.


def test_moments_are_copied_and_not_shared():
    own, mean = normalization(), np.arange(6.0)
    own.set_moments(mean, mean + 1)
    mean += 100
    assert own.gene_mean.tolist() == [0, 1, 2, 3, 4, 5] and own.gene_scale.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_state_of_an_earlier_version_gets_the_names_of_this_one():
    own = normalization()
    earlier = {"decoder.weight": torch.ones(2), "gene_mean": torch.full((6,), 3.0), "gene_scale": torch.full((6,), 2.0)}
    state = with_current_names(earlier, own)
    assert set(state) == {"decoder.weight", *(f"normalization.{name}" for name, _ in own.named_buffers())}
    assert torch.equal(state["normalization.gene_mean"], earlier["gene_mean"])
    assert torch.equal(state["normalization.gene_scale"], earlier["gene_scale"])
    assert torch.equal(state["normalization.profile"], own.profile)
