"""`impute_masked`: masked entries, masked genes, missing genes; both scales; masked counts never leak."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi

import sagefm


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(14, 14, n_genes=150, seed=2)
    sagefm.SAGEFM.setup_anndata(adata)
    return adata


def trained(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, n_hidden=32, n_latent=8, **kwargs)
    model.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module", params=["sage", "gcn"])
def model(tissue: ad.AnnData, request: pytest.FixtureRequest) -> sagefm.SAGEFM:
    return trained(tissue, conv=request.param)


@pytest.fixture(scope="module")
def mask(tissue: ad.AnnData) -> np.ndarray:
    return np.random.default_rng(0).random(tissue.shape) < 0.3


def with_counts(adata: ad.AnnData, counts: np.ndarray) -> ad.AnnData:
    other = adata.copy()
    other.X = sp.csr_matrix(counts)
    return other


def test_predictions_are_where_the_mask_is_set_and_nan_elsewhere(model, tissue, mask):
    imputed = model.impute_masked(mask=mask)
    assert imputed.index.equals(tissue.obs_names) and imputed.columns.equals(tissue.var_names)
    np.testing.assert_array_equal(imputed.notna(), mask)
    assert (imputed.to_numpy()[mask] >= 0).all()


def test_masked_counts_of_a_spot_do_not_change_its_own_prediction(model, tissue):
    spot = 20
    mask = np.zeros(tissue.shape, dtype=bool)
    mask[spot] = np.random.default_rng(1).random(tissue.n_vars) < 0.3
    counts = tissue.X.toarray()
    counts[spot, mask[spot]] += 50
    changed = model.impute_masked(with_counts(tissue, counts), mask=mask)
    np.testing.assert_array_equal(changed.iloc[spot], model.impute_masked(mask=mask).iloc[spot])


def test_unmasked_counts_of_a_spot_change_its_prediction(model, tissue):
    mask = np.zeros(tissue.shape, dtype=bool)
    mask[20, :50] = True
    counts = tissue.X.toarray()
    counts[20, 60] += 50
    changed = model.impute_masked(with_counts(tissue, counts), mask=mask)
    assert not np.allclose(changed.iloc[20, :50], model.impute_masked(mask=mask).iloc[20, :50])


def test_counts_of_masked_genes_do_not_change_any_prediction_at_the_level_of_training(model, tissue):
    genes = list(tissue.var_names[[3, 30, 77]])
    counts = tissue.X.toarray()
    counts[:, [3, 30, 77]] = np.random.default_rng(0).integers(0, 100, (tissue.n_obs, 3))
    changed = model.impute_masked(with_counts(tissue, counts), genes=genes, level="training")
    pd.testing.assert_frame_equal(changed, model.impute_masked(genes=genes, level="training"), check_exact=True)


def test_a_gene_missing_from_the_panel_is_predicted_as_if_it_were_masked(model, tissue):
    gene = tissue.var_names[10]
    without = tissue[:, tissue.var_names != gene].copy()
    assert list(without.var_names) != list(tissue.var_names)
    missing, masked = (model.impute_masked(adata, genes=[gene], level="training") for adata in (without, tissue))
    np.testing.assert_allclose(missing, masked, atol=1e-5)


def test_a_single_gene_may_be_a_string(model, tissue):
    gene = tissue.var_names[0]
    pd.testing.assert_frame_equal(model.impute_masked(genes=gene), model.impute_masked(genes=[gene]))


def test_the_mask_may_be_a_data_frame(model, mask):
    pd.testing.assert_frame_equal(model.impute_masked(mask=pd.DataFrame(mask)), model.impute_masked(mask=mask))


# A sparse mask.


@pytest.mark.parametrize(
    ("kind", "returned"), [(sp.csr_matrix, sp.csr_matrix), (sp.coo_matrix, sp.csr_matrix), (sp.csc_array, sp.csr_array)]
)
def test_a_sparse_mask_gives_a_sparse_matrix_of_the_same_pattern_and_values(model, mask, kind, returned):
    found = model.impute_masked(mask=kind(mask))
    assert isinstance(found, returned) and found.dtype == np.float32 and found.shape == mask.shape
    pattern = sp.csr_matrix(mask)
    np.testing.assert_array_equal(found.indices, pattern.indices)
    np.testing.assert_array_equal(found.indptr, pattern.indptr)
    np.testing.assert_array_equal(found.data, model.impute_masked(mask=mask).to_numpy()[mask])


def test_entries_stored_as_false_are_not_predicted_and_the_mask_does_not_change(model, mask):
    sparse = sp.csr_matrix(mask)
    sparse.data[::2] = False
    n_stored = sparse.nnz
    found, expected = model.impute_masked(mask=sparse), model.impute_masked(mask=sparse.toarray()).to_numpy()
    assert sparse.nnz == n_stored and found.nnz == (n_stored // 2)
    np.testing.assert_array_equal(found.data, expected[sparse.toarray()])


def test_a_sparse_mask_with_indices_in_any_order_is_also_written_to_a_sparse_layer(model, tissue, mask):
    rows = [7, 2, 9, 2]
    found = model.impute_masked(mask=sp.csr_matrix(mask), indices=rows, layer_added="imputed")
    expected = model.impute_masked(mask=mask, indices=rows).to_numpy()
    np.testing.assert_array_equal(found.toarray(), np.nan_to_num(expected))
    layer = tissue.layers.pop("imputed")
    assert sp.issparse(layer) and layer.nnz == mask[[2, 7, 9]].sum()
    np.testing.assert_array_equal(layer[rows].toarray(), found.toarray())


def test_genes_that_are_not_in_the_model_are_stored_as_nan(model, tissue, mask):
    wider = tissue.copy()
    wider.var_names = ["UNKNOWN", *tissue.var_names[1:]]
    with pytest.warns(UserWarning, match="genes that are not in the model"):
        found = model.impute_masked(wider, mask=sp.csr_matrix(mask))
    assert found.nnz == mask.sum()
    assert np.isnan(found[:, [0]].data).all() and np.isfinite(found[:, 1:].data).all()


def test_a_mask_without_entries_gives_a_matrix_without_entries(model, tissue):
    assert model.impute_masked(mask=sp.csr_matrix(tissue.shape, dtype=bool)).nnz == 0


def test_the_mask_is_in_the_order_of_the_section(model, tissue, mask):
    order = np.random.default_rng(3).permutation(tissue.n_vars)
    imputed = model.impute_masked(tissue[:, order].copy(), mask=mask[:, order])
    np.testing.assert_allclose(imputed, model.impute_masked(mask=mask).iloc[:, order], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 13])
def test_batch_size_and_indices_do_not_change_values(model, mask, batch_size):
    whole = model.impute_masked(mask=mask)
    some = [7, 2, 9]
    pd.testing.assert_frame_equal(
        model.impute_masked(mask=mask, indices=some, batch_size=batch_size), whole.iloc[some], rtol=1e-4, atol=1e-5
    )


def test_the_layer_holds_the_values_of_the_data_frame(model, tissue, mask):
    imputed = model.impute_masked(mask=mask, layer_added="imputed")
    np.testing.assert_array_equal(tissue.layers["imputed"], imputed.to_numpy())
    genes = list(tissue.var_names[[8, 4]])
    imputed = model.impute_masked(genes=genes, indices=[5, 6], layer_added="imputed")
    written = tissue[:, genes].layers["imputed"]
    np.testing.assert_array_equal(written[[5, 6]], imputed.to_numpy())
    assert np.isnan(np.delete(written, [5, 6], axis=0)).all()
    del tissue.layers["imputed"]


def test_counts_are_predictions_at_the_library_size_of_the_unmasked_genes(model, tissue):
    gene = tissue.var_names[0]
    rest = np.asarray(tissue.X[:, 1:].sum(axis=1)).ravel()
    share = 1 - tissue.X[:, 0].sum() / tissue.X.sum()
    logged = model.impute_masked(genes=gene, level="training")[gene]
    counts = model.impute_masked(genes=gene, level="training", scale="counts")[gene]
    np.testing.assert_allclose(counts, np.expm1(logged) * rest / share / model.target_depth, rtol=1e-3)


def test_counts_without_normalisation_are_expm1(tissue):
    model = trained(tissue, normalization="none")
    gene = tissue.var_names[0]
    logged, counts = (model.impute_masked(genes=gene, level="training", scale=scale) for scale in ("log1p", "counts"))
    np.testing.assert_allclose(counts, np.expm1(logged), rtol=1e-5)


def test_a_completely_masked_spot_is_predicted_from_its_neighbours(model, tissue):
    mask = np.zeros(tissue.shape, dtype=bool)
    mask[4] = True
    assert np.isfinite(model.impute_masked(mask=mask).iloc[4]).all()
    assert np.isfinite(model.impute_masked(mask=mask, scale="counts").iloc[4]).all()


def test_similar_names_are_suggested_for_unknown_genes(model):
    with pytest.raises(KeyError, match=r"'GENE0O01' \(did you mean GENE0"):
        model.impute_masked(genes=["GENE0O01"])


def test_genes_of_the_section_that_are_not_in_the_model_stay_nan(model, tissue):
    extra = ad.AnnData(sp.csr_matrix(np.ones((tissue.n_obs, 1), dtype=np.float32)), obs=tissue.obs[[]])
    extra.var_names = ["NOVEL"]
    wider = ad.concat([tissue, extra], axis=1, merge="first")
    wider.obsm["spatial"] = tissue.obsm["spatial"]
    mask = np.zeros(wider.shape, dtype=bool)
    mask[0, [0, -1]] = True
    with pytest.warns(UserWarning, match="1 entries of `mask` are of genes that are not in the model.*'NOVEL'"):
        imputed = model.impute_masked(wider, mask=mask)
    assert np.isfinite(imputed.iloc[0, 0]) and np.isnan(imputed.iloc[0, -1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "Pass either `genes`.*or `mask`.*not both"),
        ({"genes": ["GENE0001"], "mask": np.zeros((1, 1), bool)}, "Pass either"),
        ({"genes": []}, "`genes` is empty"),
        ({"genes": ["GENE0001", "GENE0001"]}, "appear more than once"),
        ({"mask": np.zeros((3, 4), bool)}, r"`mask` has shape \(3, 4\); expected \(\d+, 150\)"),
        ({"genes": ["GENE0001"], "scale": "cpm"}, "scale='cpm' is not known"),
        ({"genes": ["GENE0001"], "level": "own"}, "level='own' is not known; it is one of 'section', 'training'"),
    ],
)
def test_wrong_arguments_are_named(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.impute_masked(**wrong)


def test_a_mask_that_is_not_boolean_is_refused(model, tissue):
    with pytest.raises(ValueError, match="`mask` must be boolean.*found float64"):
        model.impute_masked(mask=np.zeros(tissue.shape))


def test_a_layer_has_no_column_for_a_missing_gene(model, tissue):
    without = tissue[:, 1:].copy()
    with pytest.raises(ValueError, match="not in the section, so they have no column in a layer"):
        model.impute_masked(without, genes=[tissue.var_names[0]], layer_added="imputed")
    assert "imputed" not in without.layers
