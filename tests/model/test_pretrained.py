"""Shared weights: a folder that loads to the same model, or is refused by name."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest

import sagefm
from sagefm.weights import CARD, WEIGHTS


@pytest.fixture
def folder(trained_model, tmp_path):
    trained_model.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def test_saved_and_loaded_is_the_same_model(trained_model, tissue, folder):
    adata = tissue.copy()
    model = sagefm.SAGEFM.from_pretrained(folder, adata)
    expected = trained_model.get_latent_representation(key_added=None)
    np.testing.assert_array_equal(model.get_latent_representation(), expected)
    assert model.target_depth == trained_model.target_depth and model.genes.equals(trained_model.genes)


def test_there_is_no_pickle_in_it(folder):
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, CARD}
    assert b"torch" not in (folder / WEIGHTS).read_bytes()


def test_genes_are_found_by_name_and_may_be_missing(trained_model, tissue, folder):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue[:, ::-1].copy())
    np.testing.assert_allclose(
        model.get_latent_representation(), trained_model.get_latent_representation(key_added=None), atol=1e-5
    )
    fewer = sagefm.SAGEFM.from_pretrained(folder, tissue[:, :100].copy())
    missing = tissue.var_names[120]
    assert np.isfinite(fewer.impute_masked(genes=missing)).all(axis=None)


def test_a_loaded_model_trains_further_and_is_saved_as_scvi_tools_does(tissue, folder, tmp_path):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    before = model.get_latent_representation()
    model.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    assert len(model.history["train_loss"]) == 2
    after = model.get_latent_representation()
    assert not np.allclose(before, after)
    model.save(tmp_path / "scvi")
    again = sagefm.SAGEFM.load(tmp_path / "scvi", tissue.copy())
    np.testing.assert_array_equal(again.get_latent_representation(), after)


def test_sections_with_keys_of_their_own(folder):
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, n_interactions=2, n_sections=2)
    adata.layers["counts"], adata.X = adata.X, None
    model = sagefm.SAGEFM.from_pretrained(folder, adata, layer="counts", sample_key="sample", neighbors_key="two_rings")
    assert model.get_latent_representation().shape == (adata.n_obs, 8)
    assert "two_rings_connectivities" in adata.obsp


def test_a_folder_is_replaced_only_when_asked(trained_model, folder):
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        trained_model.save_pretrained(folder)
    trained_model.save_pretrained(folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_save_leaves_what_was_there(trained_model, folder, monkeypatch):
    before = (folder / CARD).read_bytes()
    monkeypatch.setattr(sagefm.SAGEFM, "_card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trained_model.save_pretrained(folder, overwrite=True)
    assert (folder / CARD).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_untrained_model_has_nothing_to_share(adata, tmp_path):
    sagefm.SAGEFM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.SAGEFM(adata).save_pretrained(tmp_path / "weights")


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(tissue, folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_weights_are_refused(tissue, folder, size):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    with pytest.raises(ValueError, match="is damaged or is no safetensors file"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_a_flipped_bit_is_refused(tissue, folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-100] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="its hash differs"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def change(folder, **entries):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **entries}))


def test_a_card_of_another_kind_is_refused(tissue, folder):
    change(folder, format=99)
    with pytest.raises(ValueError, match="has format 99, and this version of sagefm reads 1"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    (folder / CARD).write_text("{}")
    with pytest.raises(ValueError, match="is no card of a SAGEFM model: it lacks"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    (folder / CARD).write_text("{")
    with pytest.raises(ValueError, match="is damaged or is no JSON"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_an_architecture_that_does_not_fit_is_refused(tissue, folder):
    architecture = json.loads((folder / CARD).read_text())["architecture"]
    change(folder, architecture={**architecture, "n_latent": 5})
    with pytest.raises(ValueError, match="do not fit the architecture on its card"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_too_few_genes_are_refused(tissue, folder):
    with pytest.raises(ValueError, match=r"genes that the model knows \(2.0%\)"):
        sagefm.SAGEFM.from_pretrained(folder, tissue[:, :3].copy())


def test_a_packaged_name_is_found_and_an_unknown_one_lists_them(trained_model, tissue, tmp_path, monkeypatch):
    monkeypatch.setattr("sagefm.weights._card.PACKAGED", tmp_path)
    trained_model.save_pretrained(tmp_path / "tissue-mini")
    model = sagefm.SAGEFM.from_pretrained("tissue-mini", tissue.copy())
    expected = trained_model.get_latent_representation(key_added=None)
    np.testing.assert_array_equal(model.get_latent_representation(), expected)
    with pytest.raises(
        FileNotFoundError, match=r"neither a folder nor weights that come with sagefm.*\['tissue-mini'\]"
    ):
        sagefm.SAGEFM.from_pretrained("tissue-maxi", tissue.copy())


def test_packaged_weights_go_into_the_wheel():
    from sagefm.weights import PACKAGED, packaged_weights

    assert PACKAGED.parent.name == "sagefm"
    for name, path in packaged_weights().items():
        assert sum(file.stat().st_size for file in path.iterdir()) < 12e6, name


def test_a_repository_of_the_hub_is_fetched(folder, tissue, monkeypatch):
    package = ModuleType("huggingface_hub")
    asked = []
    package.snapshot_download = lambda repository, allow_patterns: asked.append((repository, allow_patterns)) or folder
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    assert sagefm.SAGEFM.from_pretrained("someone/weights", tissue.copy()).is_trained_
    assert asked == [("someone/weights", [WEIGHTS, CARD])]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'sagefm\[hub\]'"):
        sagefm.SAGEFM.from_pretrained("someone/weights", tissue.copy())


def test_without_an_adata_the_model_takes_one_later(trained_model, tissue, folder):
    model = sagefm.SAGEFM.from_pretrained(folder)
    assert model.adata is None and model.genes.equals(trained_model.genes)
    expected = trained_model.get_latent_representation(key_added=None)
    np.testing.assert_array_equal(model.get_latent_representation(tissue.copy()), expected)


def test_half_the_size_and_nearly_the_same(trained_model, tissue, folder, tmp_path):
    trained_model.save_pretrained(tmp_path / "half", dtype="float16")
    sizes = [(path / WEIGHTS).stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    latent = sagefm.SAGEFM.from_pretrained(tmp_path / "half", tissue.copy()).get_latent_representation()
    expected = trained_model.get_latent_representation(key_added=None)
    assert np.abs(latent - expected).max() < 0.01 * expected.std()
    with pytest.raises(ValueError, match="dtype='int8' is not known"):
        trained_model.save_pretrained(tmp_path / "int", dtype="int8")


def test_the_card_tells_of_the_training(trained_model, tissue, tmp_path):
    sections = [{"sample": "A1", "licence": "CC BY 4.0"}]
    trained_model.save_pretrained(tmp_path / "weights", card={"sections": sections})
    assert json.loads((tmp_path / "weights" / CARD).read_text())["sections"] == sections
    assert sagefm.SAGEFM.from_pretrained(tmp_path / "weights", tissue.copy()).is_trained_
    with pytest.raises(ValueError, match=r"must not have \['genes'\]"):
        trained_model.save_pretrained(tmp_path / "other", card={"genes": []})


def test_mouse_symbols_are_refused_with_advice(tissue, folder):
    mouse = tissue.copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    with pytest.raises(ValueError, match="orthologues of the model's species"):
        sagefm.SAGEFM.from_pretrained(folder, mouse)


def test_training_on_goes_on_from_the_weights(trained_model, tissue, folder):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    scale = model.module.gene_scale.clone()
    bias = model.module.decoder.bias.detach().clone()
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu", plan_kwargs={"lr": 1e-9})
    assert (model.module.gene_scale == scale).all()
    np.testing.assert_allclose(model.module.decoder.bias.detach(), bias, atol=1e-5)
