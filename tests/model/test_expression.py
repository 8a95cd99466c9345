"""`get_normalized_expression`: hidden entries, library sizes, totals, chosen genes and spots, layers, memory."""

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi

import sagefm


@pytest.fixture(scope="module")
def sections() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=150, n_sections=2, seed=3)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return adata


def trained(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, n_hidden=32, n_latent=8, **kwargs)
    model.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def model(sections: ad.AnnData) -> sagefm.SAGEFM:
    return trained(sections)


def test_every_entry_of_the_section_is_predicted(model, sections):
    denoised = model.get_normalized_expression()
    assert denoised.index.equals(sections.obs_names) and denoised.columns.equals(sections.var_names)
    assert np.isfinite(denoised).all(axis=None) and (denoised >= 0).all(axis=None)


@pytest.mark.parametrize("fit_section", [True, False])
def test_an_entry_does_not_enter_its_own_value(model, sections, fit_section):
    """Beyond the total of its gene: a count that moves from spot to spot leaves the pattern as it was."""
    spot, gene = 20, int(np.argmax(sections.X[20].toarray()))
    counts = sections.X.toarray()
    counts[spot, gene] += 200
    changed = sections.copy()
    changed.X = sp.csr_matrix(counts)
    chosen = {"genes": [sections.var_names[gene]], "fit_section": fit_section, "return_numpy": True}
    before = model.get_normalized_expression(**chosen)[:, 0] / sections.X[:144, gene].sum()
    after = model.get_normalized_expression(changed, **chosen)[:, 0] / counts[:144, gene].sum()
    same_section = np.arange(144)
    ratio = after[same_section] / before[same_section]
    far = np.setdiff1d(same_section, [spot, *sections.obsp["spatial_connectivities"][spot].indices])
    assert ratio[spot] == pytest.approx(np.median(ratio[far]), rel=0.1)


@pytest.mark.parametrize("normalization", ["size", "none"])
def test_expected_counts_add_up_to_the_measured_ones_in_each_section(sections, normalization):
    expected = trained(sections, normalization=normalization).get_normalized_expression(library_size="latent")
    for rows in sections.obs.groupby("sample", observed=True).indices.values():
        np.testing.assert_allclose(expected.iloc[rows].sum(), sections.X[rows].sum(axis=0).A1, rtol=1e-4, atol=1e-3)


def test_shares_add_up_to_the_library_size(model):
    shares = model.get_normalized_expression()
    np.testing.assert_allclose(shares.sum(axis=1).mean(), 1, atol=0.05)
    np.testing.assert_allclose(model.get_normalized_expression(library_size=1e4), shares * 1e4, rtol=1e-5)


def test_chosen_genes_and_spots_are_columns_and_rows_of_the_whole(model, sections):
    whole = model.get_normalized_expression()
    genes, rows = list(sections.var_names[[70, 3]]), [200, 5, 5]
    reversed_rows = np.arange(sections.n_obs)[::-1]
    pd.testing.assert_frame_equal(model.get_normalized_expression(indices=reversed_rows), whole[::-1], rtol=1e-3)
    some = model.get_normalized_expression(sections, rows, genes=genes, batch_size=50)
    pd.testing.assert_frame_equal(some, whole[genes].iloc[rows], rtol=1e-3)
    np.testing.assert_allclose(model.get_normalized_expression(genes=genes, return_numpy=True), whole[genes], rtol=1e-5)


def test_denoised_values_are_closer_to_the_truth_than_neighbours(model, sections):
    """Half of the counts are denoised; the other half, which was not seen, is the judge."""
    counts = sections.X.toarray().astype(int)
    kept = np.random.default_rng(0).binomial(counts, 0.5)
    seen, rest = sections.copy(), np.log1p(1e3 * (counts - kept) / (counts - kept).sum(axis=1, keepdims=True))
    seen.X = sp.csr_matrix(kept.astype(np.float32))
    logged = np.log1p(1e3 * kept / kept.sum(axis=1, keepdims=True))
    graph = sections.obsp["spatial_connectivities"]
    neighbors = pd.DataFrame(graph @ logged / graph.sum(axis=1).reshape(-1, 1), columns=sections.var_names)
    denoised = np.log1p(model.get_normalized_expression(seen, library_size=1e3)).set_axis(neighbors.index)
    truth = pd.DataFrame(rest, columns=sections.var_names)
    assert denoised.corrwith(truth).mean() > neighbors.corrwith(truth).mean() + 0.02


def test_the_layer_is_nan_where_nothing_was_requested(model, sections):
    genes = list(sections.var_names[[8, 4]])
    denoised = model.get_normalized_expression(indices=[5, 6], genes=genes, layer_added="denoised")
    written = sections[:, genes].layers["denoised"]
    np.testing.assert_array_equal(written[[5, 6]], denoised)
    assert np.isfinite(sections.layers["denoised"]).sum() == 4
    del sections.layers["denoised"]


def test_memory_grows_with_the_genes_that_are_requested(sections):
    wide = sagefm.datasets.simulated_tissue(40, 40, n_genes=3000, seed=0)
    sagefm.SAGEFM.setup_anndata(wide)
    model = sagefm.SAGEFM(wide, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    model.get_normalized_expression(genes=["GENE0001"], fit_section=False)  # reads the section once

    def peak(genes: list[str]) -> int:
        tracemalloc.start()
        model.get_normalized_expression(genes=genes, fit_section=False, batch_size=16)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    whole = 4 * wide.n_obs * wide.n_vars  # bytes of the denoised matrix
    assert peak(list(wide.var_names)) - peak(list(wide.var_names[:10])) > 0.8 * whole


@pytest.mark.parametrize("library_size", [0, -1, np.inf, np.nan, True, "own", None])
def test_other_library_sizes_are_refused(model, library_size):
    with pytest.raises(ValueError, match="must be a positive number or 'latent'"):
        model.get_normalized_expression(library_size=library_size)


def test_genes_that_are_not_in_the_section_are_refused(model, sections):
    panel = sections[:, 1:].copy()
    with pytest.raises(ValueError, match=r"1 requested genes are not in the section.*impute_masked\(genes=...\)"):
        model.get_normalized_expression(panel, genes=list(sections.var_names[:3]))
    assert model.get_normalized_expression(panel).columns.equals(panel.var_names)


def test_an_untrained_model_is_refused(sections):
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.SAGEFM(sections).get_normalized_expression()
