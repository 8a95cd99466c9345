"""Whole genes at the section's level: measured genes at their own, missing genes by what the others show."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi

import sagefm


@pytest.fixture(scope="module")
def sections() -> ad.AnnData:
    return sagefm.datasets.simulated_tissue(14, 14, n_genes=240, n_sections=2, seed=2)


@pytest.fixture(scope="module")
def model(sections: ad.AnnData) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    first = sections[sections.obs["sample"] == "section_1"].copy()
    sagefm.SAGEFM.setup_anndata(first)
    model = sagefm.SAGEFM(first, n_hidden=32, n_latent=8)
    model.train(max_epochs=20, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def other(sections: ad.AnnData) -> ad.AnnData:
    """The second section, in which every gene has a quarter of its counts, drawn at random, and ten genes have all."""
    other = sections[sections.obs["sample"] == "section_2"].copy()
    counts = other.X.toarray().astype(int)
    thinned = np.random.default_rng(0).binomial(counts, 0.25)
    thinned[:, :10] = counts[:, :10]
    other.X = sp.csr_matrix(thinned.astype(np.float32))
    return other


def means(values: pd.DataFrame | ad.AnnData) -> pd.Series:
    return (values.to_df() if isinstance(values, ad.AnnData) else values).mean().astype(float)


def test_a_measured_gene_has_its_own_mean_count(model, other):
    genes = list(other.var_names[5:15])
    recovered = model.impute_masked(other, genes=genes, scale="counts")
    np.testing.assert_allclose(means(recovered), means(other[:, genes]), rtol=1e-4)
    at_training = model.impute_masked(other, genes=genes, scale="counts", level="training")
    assert (means(at_training) / means(other[:, genes])).iloc[:5].lt(0.7).all()  # the ten genes with all counts


def test_a_measured_gene_has_its_own_mean_on_the_log_scale(model, other):
    genes = list(other.var_names[5:15])
    rest = other[:, ~other.var_names.isin(genes)]
    own = model.adata
    share = own[:, rest.var_names].X.sum() / own.X.sum()
    size = np.asarray(rest.X.sum(axis=1)) / share
    logged = np.log1p(other[:, genes].X.toarray() * model.target_depth / size)
    np.testing.assert_allclose(means(model.impute_masked(other, genes=genes)), logged.mean(axis=0), rtol=1e-3)


def test_masked_counts_contribute_the_level_and_nothing_else(model, other):
    """Counts of a gene in another order of spots: every sum over spots is the same, so every prediction is."""
    genes = list(other.var_names[[3, 30]])
    counts = other.X.toarray()
    size = np.delete(counts, [3, 30], axis=1).sum(axis=1)
    order = np.argsort(size, kind="stable")  # swaps of spots whose library sizes agree, so that log counts agree too
    pairs = [(i, j) for i, j in zip(order[:-1:2], order[1::2], strict=False) if size[i] == size[j]]
    assert len(pairs) > 5
    for i, j in pairs:
        counts[np.ix_([i, j], [3, 30])] = counts[np.ix_([j, i], [3, 30])]
    assert (counts != other.X.toarray()).any()
    swapped = other.copy()
    swapped.X = sp.csr_matrix(counts)
    for scale in ("log1p", "counts"):
        found, expected = (model.impute_masked(adata, genes=genes, scale=scale) for adata in (swapped, other))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_pattern_is_that_of_the_network(model, other):
    genes = list(other.var_names[other.X.mean(axis=0).A1.argsort()[-5:]])
    at_section, at_training = (
        model.impute_masked(other, genes=genes, level=level) for level in ("section", "training")
    )
    unclipped = (at_section > 0).to_numpy().all(axis=0) & (at_training > 0).to_numpy().all(axis=0)
    assert unclipped.any()
    np.testing.assert_allclose(at_section.corrwith(at_training)[unclipped], 1, atol=1e-4)


def test_the_level_of_a_missing_gene_follows_the_genes_that_are_measured(model, sections):
    """Genes that vary together change together: those along one latent axis are four times as high here."""
    new = sections[sections.obs["sample"] == "section_2"].copy()
    decoder = model.module.decoder.weight.detach().numpy()
    leading = np.argsort(-np.abs(decoder[:, 0]))[:60]
    raised = leading[decoder[leading, 0] * np.sign(decoder[leading[0], 0]) > 0]
    counts = new.X.toarray()
    counts[:, raised] *= 4
    new.X = sp.csr_matrix(counts)
    missing = raised[counts[:, raised].sum(axis=0) > 50][::3]
    panel = new[:, np.delete(np.arange(new.n_vars), missing)].copy()
    measured = means(new[:, missing])
    error = {
        level: np.abs(
            np.log(means(model.impute_masked(panel, genes=measured.index, scale="counts", level=level)) / measured)
        )
        for level in ("section", "training")
    }
    assert error["section"].median() < 0.7 * error["training"].median()


def test_each_section_has_its_own_level_whichever_spots_are_requested(sections):
    scvi.settings.seed = 0
    both = sections.copy()
    second = (both.obs["sample"] == "section_2").to_numpy()
    counts = both.X.toarray()
    counts[np.ix_(second, [4])] *= 5
    both.X = sp.csr_matrix(counts)
    sagefm.SAGEFM.setup_anndata(both, sample_key="sample")
    model = sagefm.SAGEFM(both, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    gene = both.var_names[4]
    recovered = model.impute_masked(genes=gene, scale="counts")[gene].to_numpy()
    for section in (second, ~second):
        np.testing.assert_allclose(recovered[section].mean(), counts[section, 4].mean(), rtol=1e-4)
    rows = [200, 3, 77, 3]
    some = model.impute_masked(genes=gene, scale="counts", indices=rows, batch_size=50)[gene]
    np.testing.assert_allclose(some, recovered[rows], rtol=1e-4)


@pytest.mark.parametrize("scale", ["log1p", "counts"])
def test_a_gene_without_counts_is_zero(model, other, scale):
    empty = other.copy()
    empty.X = sp.csr_matrix(np.where(np.arange(empty.n_vars) == 20, 0, empty.X.toarray()))
    assert (model.impute_masked(empty, genes=empty.var_names[[20, 21]], scale=scale).iloc[:, 0] == 0).all()


def test_with_few_known_genes_the_level_is_that_of_training(model, other):
    """All but five of the panel's genes are masked, too few to estimate the missing ones from."""
    panel, missing = other[:, :100].copy(), other.var_names[150]
    genes = [*panel.var_names[5:], missing]
    recovered = model.impute_masked(panel, genes=genes)[missing]
    assert recovered.mean() == pytest.approx(float(model.module.normalization.gene_mean[150]), abs=2e-3)


def test_without_standardisation_of_genes_the_level_is_that_of_training(sections):
    first = sections[sections.obs["sample"] == "section_1"].copy()
    sagefm.SAGEFM.setup_anndata(first)
    raw = sagefm.SAGEFM(first, n_hidden=16, scale_genes=False)
    raw.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    section, training = (raw.impute_masked(genes=["GENE0001"], level=level) for level in ("section", "training"))
    pd.testing.assert_frame_equal(section, training)
