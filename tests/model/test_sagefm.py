"""The class SAGEFM as it is used: set up, create, embed, embed other sections, save and load."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scvi

import sagefm

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=200, seed=1)
    sagefm.SAGEFM.setup_anndata(adata)
    return adata


def trained(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, n_hidden=32, n_latent=8, **kwargs)
    model.train(max_epochs=3, **QUIET)
    return model


@pytest.fixture(scope="module")
def model(tissue: ad.AnnData) -> sagefm.SAGEFM:
    return trained(tissue)


def test_the_latent_representation_is_returned_and_written(model, tissue):
    latent = model.get_latent_representation()
    assert latent.shape == (tissue.n_obs, 8) and latent.dtype == np.float32
    assert np.isfinite(latent).all() and latent.std(axis=0).min() > 0
    np.testing.assert_array_equal(tissue.obsm["X_sagefm"], latent)


def test_key_added_is_the_key_in_obsm_and_none_writes_nothing(model, tissue):
    model.get_latent_representation(key_added="elsewhere")
    assert "elsewhere" in tissue.obsm
    before = set(tissue.obsm)
    model.get_latent_representation(key_added=None)
    assert set(tissue.obsm) == before


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batch_size_does_not_change_the_result(model, batch_size):
    whole = model.get_latent_representation(key_added=None)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=batch_size, key_added=None), whole, atol=1e-5)


def test_rows_of_spots_that_are_not_requested_are_nan(model, tissue):
    whole = model.get_latent_representation(key_added=None)
    some = np.array([5, 3, 40])
    np.testing.assert_allclose(model.get_latent_representation(indices=some, key_added="some"), whole[some], atol=1e-5)
    written = tissue.obsm["some"]
    np.testing.assert_allclose(written[some], whole[some], atol=1e-5)
    assert np.isnan(np.delete(written, some, axis=0)).all()


def test_indices_may_be_boolean(model, tissue):
    chosen = np.arange(tissue.n_obs) % 3 == 0
    by_mask = model.get_latent_representation(indices=chosen, key_added=None)
    by_position = model.get_latent_representation(indices=np.flatnonzero(chosen), key_added=None)
    np.testing.assert_array_equal(by_mask, by_position)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([10_000], IndexError, "`indices` range from 10000 to 10000, but there are"),
        ([0.5], ValueError, "`indices` must be positions of spots or a boolean array of length"),
        ([], ValueError, "`indices` must be positions"),
        ([True, False], ValueError, "`indices` must be positions"),
    ],
)
def test_wrong_indices_are_named(model, indices, error, message):
    with pytest.raises(error, match=message):
        model.get_latent_representation(indices=indices)


@pytest.mark.parametrize("method", ["get_latent_representation", "get_masked_recovery", "impute_masked"])
def test_an_untrained_model_gives_no_results(tissue, method):
    with pytest.raises(RuntimeError, match="The model is untrained.*Call `model.train\\(\\)` first"):
        getattr(sagefm.SAGEFM(tissue), method)()


def test_a_model_needs_an_anndata_that_was_set_up():
    with pytest.raises(ValueError, match="setup_anndata first"):
        sagefm.SAGEFM(sagefm.datasets.simulated_tissue(8, 8, n_genes=100))


def test_a_misspelt_setup_argument_is_named_with_the_arguments_that_exist(tissue):
    with pytest.raises(TypeError, match="no argument 'sample'; expected one of layer, sample_key"):
        sagefm.SAGEFM.setup_anndata(tissue.copy(), sample="sample")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"conv": "gat"}, "conv='gat' is not known; it is one of 'sage', 'gcn'"),
        ({"normalization": "cpm"}, "normalization='cpm' is not known"),
        ({"gene_likelihood": "zinb"}, "gene_likelihood='zinb' is not known"),
        ({"mask_fraction": 0}, "mask_fraction=0 must lie between 0 and 1"),
        ({"mask_fraction": 1.5}, "mask_fraction=1.5 must lie between 0 and 1"),
        ({"dropout_rate": 1}, "dropout_rate=1 must be at least 0 and below 1"),
        ({"n_layers": 1}, "at least one hidden layer"),
        ({"n_latent": 0}, "positive widths"),
    ],
)
def test_wrong_arguments_are_named(tissue, wrong, message):
    with pytest.raises(ValueError, match=message):
        sagefm.SAGEFM(tissue, **wrong)


def test_repr_describes_the_model(tissue, model):
    assert repr(sagefm.SAGEFM(tissue)).endswith("untrained")
    text = repr(model)
    assert "200 genes" in text and "conv='sage'" in text and "n_latent=8" in text and text.endswith(", trained")


def test_view_anndata_setup_prints_a_summary(model, capsys):
    model.view_anndata_setup()
    assert "SAGEFM" in capsys.readouterr().out


@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_a_model_loaded_in_a_new_process_gives_the_same_embedding(tissue, tmp_path, conv):
    model = trained(tissue, conv=conv)
    np.save(tmp_path / "latent.npy", model.get_latent_representation(key_added=None))
    model.save(tmp_path / "model")
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    script = f"""
import anndata, numpy, sagefm
adata = anndata.read_h5ad({str(tmp_path / "tissue.h5ad")!r})
model = sagefm.SAGEFM.load({str(tmp_path / "model")!r}, adata)
assert (model.get_latent_representation() == numpy.load({str(tmp_path / "latent.npy")!r})).all()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_genes_in_another_order_are_matched_by_name(model, tissue, recwarn):
    whole = model.get_latent_representation(key_added=None)
    other = tissue[:, np.random.default_rng(0).permutation(tissue.n_vars)].copy()
    np.testing.assert_allclose(model.get_latent_representation(other), whole, atol=1e-5)
    assert not [w for w in recwarn if "var" in str(w.message)]


def test_load_matches_genes_by_name(model, tissue, tmp_path, recwarn):
    model.save(tmp_path / "model")
    other = tissue[:, ::-1].copy()
    loaded = sagefm.SAGEFM.load(tmp_path / "model", other)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation(key_added=None), atol=1e-5
    )
    assert not [w for w in recwarn if "var_names" in str(w.message)]


def test_spots_in_another_order_give_the_same_rows(model, tissue):
    whole = model.get_latent_representation(key_added=None)
    order = np.random.default_rng(0).permutation(tissue.n_obs)
    np.testing.assert_allclose(model.get_latent_representation(tissue[order].copy()), whole[order], atol=1e-5)


def test_a_view_is_embedded_like_a_copy(model, tissue):
    whole = model.get_latent_representation(key_added=None)
    np.testing.assert_allclose(model.get_latent_representation(tissue[::-1]), whole[::-1], atol=1e-5)


def test_spots_of_a_subset_with_all_their_neighbours_keep_their_embedding(tissue):
    tissue = tissue.copy()
    sagefm.SAGEFM.setup_anndata(tissue)
    model = sagefm.SAGEFM(tissue, n_latent=8, scale_genes=False)  # standardisation depends on all spots of a section
    model.train(max_epochs=2, **QUIET)
    whole = model.get_latent_representation(key_added=None)
    kept = np.flatnonzero(tissue.obs["array_row"] < 10)
    complete = np.asarray([np.isin(tissue.obsp["spatial_connectivities"][[spot]].indices, kept).all() for spot in kept])
    part = model.get_latent_representation(tissue[kept].copy())
    assert 20 < complete.sum() < len(kept)
    np.testing.assert_allclose(part[complete], whole[kept][complete], atol=1e-5)


def test_another_section_is_set_up_automatically(model):
    other = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, seed=5)
    latent = model.get_latent_representation(other)
    assert latent.shape == (other.n_obs, 8) and "spatial_connectivities" in other.obsp


def test_some_genes_may_be_missing_but_not_most(model, tissue):
    fewer = model.get_latent_representation(tissue[:, :150].copy())
    assert np.isfinite(fewer).all()
    with pytest.raises(ValueError, match=r"The section has 5 of the model's 200 genes \(2.5%\)"):
        model.get_latent_representation(tissue[:, :5].copy())


def test_a_section_may_have_a_new_name():
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150, n_sections=3)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = trained(adata)
    other = adata[adata.obs["sample"] == "section_1"].copy()
    other.obs["sample"] = "new"
    latent = model.get_latent_representation(other)
    whole = model.get_latent_representation(key_added=None)
    np.testing.assert_allclose(latent, whole[(adata.obs["sample"] == "section_1").to_numpy()], atol=1e-5)


def test_sections_do_not_affect_each_other():
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150, n_sections=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = trained(adata)
    first = (adata.obs["sample"] == "section_1").to_numpy()
    before = model.get_latent_representation(key_added=None)[first]
    changed = adata.copy()
    changed.X[np.flatnonzero(~first)] = 1
    np.testing.assert_array_equal(model.get_latent_representation(changed)[first], before)


def test_importing_the_package_is_light():
    code = "import sys, sagefm; sys.exit(any(m in sys.modules for m in ('torch', 'scvi', 'scanpy', 'squidpy')))"
    subprocess.run([sys.executable, "-c", code], check=True)
