"""SAGEFM as a user meets it: set up, train, embed, save, load, embed something else."""

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


def train(adata: ad.AnnData, **kwargs: object) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata, n_hidden=32, n_latent=8, **kwargs)
    model.train(max_epochs=3, **QUIET)
    return model


@pytest.fixture(scope="module")
def model(tissue: ad.AnnData) -> sagefm.SAGEFM:
    return train(tissue)


def test_latent_representation_is_written_and_returned(model, tissue):
    latent = model.get_latent_representation()
    assert latent.shape == (tissue.n_obs, 8) and latent.dtype == np.float32
    assert np.isfinite(latent).all() and latent.std(axis=0).min() > 0
    np.testing.assert_array_equal(tissue.obsm["X_sagefm"], latent)


def test_key_added_names_the_place_and_none_writes_nothing(model, tissue):
    model.get_latent_representation(key_added="elsewhere")
    assert "elsewhere" in tissue.obsm
    before = set(tissue.obsm)
    model.get_latent_representation(key_added=None)
    assert set(tissue.obsm) == before


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batch_size_does_not_change_the_result(model, batch_size):
    whole = model.get_latent_representation(key_added=None)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=batch_size, key_added=None), whole, atol=1e-5)


def test_indices_choose_rows_and_leave_the_others_nan(model, tissue):
    whole = model.get_latent_representation(key_added=None)
    some = np.array([5, 3, 40])
    np.testing.assert_allclose(model.get_latent_representation(indices=some, key_added="some"), whole[some], atol=1e-5)
    written = tissue.obsm["some"]
    np.testing.assert_allclose(written[some], whole[some], atol=1e-5)
    assert np.isnan(np.delete(written, some, axis=0)).all()


def test_boolean_indices_are_positions(model, tissue):
    chosen = np.arange(tissue.n_obs) % 3 == 0
    by_mask = model.get_latent_representation(indices=chosen, key_added=None)
    by_position = model.get_latent_representation(indices=np.flatnonzero(chosen), key_added=None)
    np.testing.assert_array_equal(by_mask, by_position)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([10_000], IndexError, "`indices` reach from 10000 to 10000, but there are"),
        ([0.5], ValueError, "`indices` must be positions of spots or a boolean array of length"),
        ([], ValueError, "`indices` must be positions"),
        ([True, False], ValueError, "`indices` must be positions"),
    ],
)
def test_wrong_indices_are_named(model, indices, error, message):
    with pytest.raises(error, match=message):
        model.get_latent_representation(indices=indices)


@pytest.mark.parametrize("ask", ["get_latent_representation", "get_masked_recovery", "impute_masked"])
def test_an_untrained_model_gives_no_results(tissue, ask):
    with pytest.raises(RuntimeError, match="The model is untrained.*Call `model.train\\(\\)` first"):
        getattr(sagefm.SAGEFM(tissue), ask)()


def test_a_model_wants_an_anndata_that_was_set_up():
    with pytest.raises(ValueError, match="setup_anndata first"):
        sagefm.SAGEFM(sagefm.datasets.simulated_tissue(8, 8, n_genes=100))


def test_a_misspelt_setup_argument_is_named_beside_those_there_are(tissue):
    with pytest.raises(TypeError, match="no argument 'sample'; it takes layer, sample_key"):
        sagefm.SAGEFM.setup_anndata(tissue.copy(), sample="sample")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"conv": "gat"}, "conv='gat' is not known; it is one of 'sage', 'gcn'"),
        ({"normalization": "cpm"}, "normalization='cpm' is not known"),
        ({"gene_likelihood": "zinb"}, "gene_likelihood='zinb' is not known"),
        ({"mask_fraction": 0}, "mask_fraction=0 must lie between 0 and 1"),
        ({"mask_fraction": 1.5}, "mask_fraction=1.5 must lie between 0 and 1"),
        ({"dropout_rate": 1}, "dropout_rate=1 must lie between 0 and 1"),
        ({"n_layers": 1}, "at least one hidden layer"),
        ({"n_latent": 0}, "positive widths"),
    ],
)
def test_wrong_arguments_are_named(tissue, wrong, message):
    with pytest.raises(ValueError, match=message):
        sagefm.SAGEFM(tissue, **wrong)


def test_repr_says_what_the_model_is(tissue, model):
    assert repr(sagefm.SAGEFM(tissue)).endswith("untrained")
    text = repr(model)
    assert "200 genes" in text and "conv='sage'" in text and "n_latent=8" in text and text.endswith(", trained")


def test_view_anndata_setup_prints(model, capsys):
    model.view_anndata_setup()
    assert "SAGEFM" in capsys.readouterr().out


def test_training_lowers_the_loss_and_logs_it(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=64)
    model.train(max_epochs=30, **QUIET)
    for name in ("train_loss", "validation_loss"):
        loss = model.history[name][name].astype(float)
        assert loss.min() < loss.iloc[0]


def test_two_runs_with_one_seed_agree_and_with_two_seeds_do_not(tissue, model):
    def latent(seed: int) -> np.ndarray:
        scvi.settings.seed = seed
        other = sagefm.SAGEFM(tissue, n_hidden=32, n_latent=8)
        other.train(max_epochs=3, **QUIET)
        return other.get_latent_representation(key_added=None)

    np.testing.assert_array_equal(latent(0), model.get_latent_representation(key_added=None))
    assert not np.allclose(latent(1), model.get_latent_representation(key_added=None))


def test_early_stopping_ends_training(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=32)
    model.train(max_epochs=200, early_stopping_patience=1, plan_kwargs={"lr": 0.05}, **QUIET)
    assert len(model.history["train_loss"]) < 200


def test_training_on_everything_has_no_validation(tissue):
    model = sagefm.SAGEFM(tissue, n_hidden=16)
    model.train(max_epochs=2, train_size=1.0, **QUIET)
    assert len(model.validation_indices) == 0 and len(model.train_indices) == tissue.n_obs


def test_plan_settings_reach_the_optimiser(tissue):
    model = sagefm.SAGEFM(tissue, n_hidden=16)
    model.train(max_epochs=1, plan_kwargs={"lr": 0.02, "weight_decay": 0.5, "optimizer": "AdamW"}, **QUIET)
    optimizer = model.trainer.optimizers[0]
    assert type(optimizer).__name__ == "AdamW"
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["eps"], group["fused"]) == (0.02, 0.5, 1e-8, True)


def test_unknown_train_argument_is_an_error(tissue):
    with pytest.raises(TypeError):
        sagefm.SAGEFM(tissue, n_hidden=16).train(max_epochs=1, epochs=3, **QUIET)


def test_further_training_keeps_the_units_of_the_genes(tissue):
    model = train(tissue)
    before = model.module.gene_scale.clone()
    model.train(max_epochs=1, train_size=0.5, **QUIET)
    np.testing.assert_array_equal(model.module.gene_scale, before)


@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_save_and_load_in_a_fresh_process_is_identity(tissue, tmp_path, conv):
    model = train(tissue, conv=conv)
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


def test_genes_in_another_order_are_found_by_name(model, tissue, recwarn):
    whole = model.get_latent_representation(key_added=None)
    other = tissue[:, np.random.default_rng(0).permutation(tissue.n_vars)].copy()
    np.testing.assert_allclose(model.get_latent_representation(other), whole, atol=1e-5)
    assert not [w for w in recwarn if "var" in str(w.message)]


def test_load_finds_genes_by_name(model, tissue, tmp_path, recwarn):
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


def test_a_subset_gives_the_same_rows_where_all_neighbours_are_in_it(tissue):
    tissue = tissue.copy()
    sagefm.SAGEFM.setup_anndata(tissue)
    model = sagefm.SAGEFM(tissue, n_latent=8, scale_genes=False)  # units of genes are of the section at hand
    model.train(max_epochs=2, **QUIET)
    whole = model.get_latent_representation(key_added=None)
    kept = np.flatnonzero(tissue.obs["array_row"] < 10)
    complete = np.asarray([np.isin(tissue.obsp["spatial_connectivities"][[spot]].indices, kept).all() for spot in kept])
    part = model.get_latent_representation(tissue[kept].copy())
    assert 20 < complete.sum() < len(kept)
    np.testing.assert_allclose(part[complete], whole[kept][complete], atol=1e-5)


def test_another_section_is_set_up_on_the_way(model):
    other = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, seed=5)
    latent = model.get_latent_representation(other)
    assert latent.shape == (other.n_obs, 8) and "spatial_connectivities" in other.obsp


def test_missing_genes_are_zero_and_too_few_are_an_error(model, tissue):
    fewer = model.get_latent_representation(tissue[:, :150].copy())
    assert np.isfinite(fewer).all()
    with pytest.raises(ValueError, match=r"The section has 5 of the 200 genes that the model knows \(2.5%\)"):
        model.get_latent_representation(tissue[:, :5].copy())


def test_new_sections_are_welcome(tmp_path):
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150, n_sections=3)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = train(adata)
    other = adata[adata.obs["sample"] == "section_1"].copy()
    other.obs["sample"] = "never seen"
    latent = model.get_latent_representation(other)
    whole = model.get_latent_representation(key_added=None)
    np.testing.assert_allclose(latent, whole[(adata.obs["sample"] == "section_1").to_numpy()], atol=1e-5)


def test_sections_do_not_influence_one_another(tmp_path):
    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=150, n_sections=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = train(adata)
    first = (adata.obs["sample"] == "section_1").to_numpy()
    before = model.get_latent_representation(key_added=None)[first]
    changed = adata.copy()
    changed.X[np.flatnonzero(~first)] = 1
    np.testing.assert_array_equal(model.get_latent_representation(changed)[first], before)


def test_import_is_light():
    code = "import sys, sagefm; sys.exit(any(m in sys.modules for m in ('torch', 'scvi', 'scanpy', 'squidpy')))"
    subprocess.run([sys.executable, "-c", code], check=True)
