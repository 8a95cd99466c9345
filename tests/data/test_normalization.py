"""The log scale: scanpy's where all genes are seen, and blind to what is hidden."""

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sagefm
from sagefm.data import Normalization, Units
from sagefm.module import MaskedCenterModule

N_SPOTS, N_GENES = 4, 6
PROFILE = np.array([0.3, 0.25, 0.2, 0.15, 0.1, 0], dtype=np.float32)  # the last gene was never counted
METHODS = ["size", "none"]

counts_of_any_size = arrays(np.float32, (N_SPOTS, N_GENES), elements=st.integers(0, 5000).map(float))
masks = arrays(bool, (N_SPOTS, N_GENES))
some_genes = arrays(bool, N_GENES)
quick = settings(max_examples=50, deadline=None)


def normalization(method: str = "size") -> Normalization:
    return Normalization(method, 100.0, PROFILE)


def sparse_log(counts: np.ndarray, visible: np.ndarray, method: str = "size") -> np.ndarray:
    return normalization(method).log(sp.csr_matrix(counts), visible).toarray()


def dense_log(counts: np.ndarray, visible: np.ndarray, method: str = "size") -> np.ndarray:
    return log_and_factor(counts, visible, method)[0].numpy()


def log_and_factor(counts: np.ndarray, visible: np.ndarray, method: str = "size") -> tuple[torch.Tensor, torch.Tensor]:
    values, seen = torch.from_numpy(counts), torch.from_numpy(visible)
    return normalization(method).log_dense(values, seen), normalization(method).factor(values, seen.float())


# The scale.


def test_with_all_genes_seen_it_is_scanpys(adata, spots_of):
    sagefm.SAGEFM.setup_anndata(adata)
    spots, every = spots_of(adata), np.arange(adata.n_obs)
    expected = sc.pp.normalize_total(adata, target_sum=np.median(adata.X.toarray().sum(axis=1)), inplace=False)["X"]
    expected = np.log1p(expected.toarray())
    counts, visible = torch.from_numpy(spots.counts(every).toarray()), torch.ones(adata.shape, dtype=torch.bool)
    np.testing.assert_allclose(spots.log(every).toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(spots.normalization.log_dense(counts, visible).numpy(), expected, rtol=1e-5)


def test_without_normalisation_it_is_log1p_of_raw_counts(adata, spots_of):
    sagefm.SAGEFM.setup_anndata(adata)
    logged = spots_of(adata, method="none").log(np.arange(adata.n_obs))
    np.testing.assert_allclose(logged.toarray(), np.log1p(adata.X.toarray()), rtol=1e-6)


@quick
@given(counts_of_any_size, masks)
def test_without_normalisation_a_mask_zeroes_and_does_nothing_else(counts, visible):
    np.testing.assert_allclose(dense_log(counts, visible, "none"), np.log1p(counts) * visible, rtol=1e-6)


@quick
@given(counts_of_any_size, some_genes)
def test_the_library_size_is_what_the_visible_genes_tell(counts, visible):
    seen, share = counts[:, visible].sum(axis=1), PROFILE[visible].sum()
    size = normalization().library_size(sp.csr_matrix(counts * visible), visible)
    expected = np.where(seen > 0, seen / max(share, 1e-12), 100)
    np.testing.assert_allclose(size, expected, rtol=1e-5)


def test_hiding_genes_that_follow_the_profile_leaves_the_others_where_they_are():
    counts = (PROFILE * 400)[None].astype(np.float32)
    everything, some = np.ones(6, dtype=bool), np.array([True, False, True, False, True, True])
    np.testing.assert_allclose(sparse_log(counts, some)[:, some], sparse_log(counts, everything)[:, some], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, visible=some_genes)
def test_the_sparse_and_the_dense_way_agree(method, counts, visible):
    dense = dense_log(counts, np.broadcast_to(visible, counts.shape).copy(), method)
    np.testing.assert_allclose(sparse_log(counts, visible, method), dense, rtol=1e-5, atol=1e-7)


@quick
@given(counts_of_any_size, masks)
def test_the_factor_leads_back_from_the_log_scale_to_the_counts(counts, visible):
    logged, factor = log_and_factor(counts, visible)
    back = (torch.expm1(logged.double()) / factor).numpy()
    np.testing.assert_allclose(back, counts * visible, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_sparse_way_leaves_the_counts_alone(method):
    counts = sp.random(20, N_GENES, 0.5, format="csr", dtype=np.float32, random_state=0)
    before = counts.copy()
    normalization(method).log(counts, np.ones(N_GENES, dtype=bool))
    assert np.array_equal(counts.toarray(), before.toarray())


# No leak: what is hidden changes no bit of what is seen.


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, others=counts_of_any_size, visible=masks)
def test_masked_counts_change_nothing_that_is_seen(method, counts, others, visible):
    changed = np.where(visible, counts, others)
    one, other = (log_and_factor(x, visible, method) for x in (counts, changed))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, others=counts_of_any_size, visible=some_genes)
def test_hidden_genes_change_nothing_that_is_seen(method, counts, others, visible):
    changed = np.where(visible, counts, others)
    assert np.array_equal(sparse_log(counts, visible, method), sparse_log(changed, visible, method))


@pytest.mark.parametrize("method", METHODS)
@quick
@given(counts=counts_of_any_size, visible=masks)
def test_what_is_masked_is_zero(method, counts, visible):
    assert (dense_log(counts, visible, method)[~visible] == 0).all()


def test_counts_that_are_seen_do_change_the_others():
    counts = np.full((1, N_GENES), 10, dtype=np.float32)
    more = counts + np.eye(N_GENES, dtype=np.float32)[:1] * 50
    visible = np.ones((1, N_GENES), dtype=bool)
    assert (dense_log(counts, visible)[:, 1:] > dense_log(more, visible)[:, 1:]).all()


@pytest.mark.parametrize("method", METHODS)
def test_masked_counts_of_a_centre_do_not_reach_the_network(method):
    torch.manual_seed(0)
    module = MaskedCenterModule(
        normalization(method), [N_GENES, 5, 3], conv="sage", dropout_rate=0, mask_fraction=0.3, scale_genes=False
    )
    counts, mask = torch.poisson(torch.full((9, N_GENES), 5.0)), (torch.rand(9, N_GENES) < 0.5).float()
    known, neighbors = torch.ones(9, N_GENES), torch.rand(9, N_GENES)
    n_neighbors = torch.full((9, 1), 6.0)
    latent = module.inference(counts, mask, known, neighbors, n_neighbors, Units())["z"]
    other = module.inference(counts + 1000 * mask, mask, known, neighbors, n_neighbors, Units())["z"]
    assert torch.equal(latent, other)


def test_hidden_genes_reach_neither_a_spot_nor_its_neighbours(adata, spots_of):
    hidden = np.arange(adata.n_vars) % 3 == 0
    other = adata.copy()
    other.X = sp.csr_matrix(np.where(hidden, 50, adata.X.toarray()).astype(np.float32))
    sagefm.SAGEFM.setup_anndata(adata)
    every = np.arange(adata.n_obs)
    (log, means), (other_log, other_means) = (
        (spots.log(every).toarray(), spots.neighborhood_means(every))
        for spots in (spots_of(adata, hidden), spots_of(other, hidden, like=adata))
    )
    assert np.array_equal(log, other_log)
    assert np.array_equal(means, other_means)
    assert (log[:, hidden] == 0).all() and (means[:, hidden] == 0).all()
    assert log[:, ~hidden].any() and means[:, ~hidden].any()


# Nothing to normalise by.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shown", [[], [5], [0]], ids=["nothing", "a gene never counted before", "a gene without counts"]
)
def test_a_spot_that_shows_next_to_nothing_is_finite(method, shown):
    counts, visible = np.array([[0, 9, 9, 9, 9, 9]], dtype=np.float32), np.zeros(N_GENES, dtype=bool)
    visible[shown] = True
    logged, factor = log_and_factor(counts, visible[None], method)
    assert torch.isfinite(logged).all() and torch.isfinite(factor).all() and (factor > 0).all()
    assert np.isfinite(sparse_log(counts, visible, method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_spot_masked_whole_is_all_zero(method):
    counts, nothing = np.full((1, N_GENES), 7, dtype=np.float32), np.zeros(N_GENES, dtype=bool)
    assert (dense_log(counts, nothing[None], method) == 0).all()
    assert (sparse_log(counts, nothing, method) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_library_sizes_are_of_full_precision_in_mixed_training(dtype):
    counts = torch.from_numpy(np.random.default_rng(0).poisson(20_000, (5, N_GENES)).astype(np.float32))
    for visible in (torch.ones(1, N_GENES), torch.ones(5, N_GENES)):
        exact = normalization().factor(counts, visible)
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(normalization().factor(counts, visible), exact, rtol=1e-6, atol=0)
