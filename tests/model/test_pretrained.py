"""Shared weights: a folder that loads into the same model, or is refused with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sagefm
from sagefm._errors import GeneMismatchError
from sagefm.weights import CARD, WEIGHTS, find_weights, packaged_weights, read_card

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture
def folder(trained_model, tmp_path):
    trained_model.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def latent(trained_model) -> np.ndarray:
    """Embedding by the model that was saved."""
    return trained_model.get_latent_representation(key_added=None)


def change(folder: Path, **entries: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **entries}))


# Saved and loaded.


def test_a_saved_model_loads_into_the_same_model(trained_model, tissue, folder, latent):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    assert model.target_depth == trained_model.target_depth and model.genes.equals(trained_model.genes)


def test_there_is_no_pickle_in_the_folder(folder):
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, CARD}
    assert b"torch" not in (folder / WEIGHTS).read_bytes()


def test_genes_are_matched_by_name_and_may_be_missing(tissue, folder, latent):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue[:, ::-1].copy())
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-5)
    fewer = sagefm.SAGEFM.from_pretrained(folder, tissue[:, :100].copy())
    missing = tissue.var_names[120]
    assert np.isfinite(fewer.impute_masked(genes=missing)).all(axis=None)


def test_a_loaded_model_trains_further_and_can_be_saved_in_the_format_of_scvi_tools(tissue, folder, tmp_path):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    before = model.get_latent_representation()
    model.train(max_epochs=2, **QUIET)
    assert len(model.history["train_loss"]) == 2
    after = model.get_latent_representation()
    assert not np.allclose(before, after)
    model.save(tmp_path / "scvi")
    again = sagefm.SAGEFM.load(tmp_path / "scvi", tissue.copy())
    np.testing.assert_array_equal(again.get_latent_representation(), after)


def test_further_training_continues_from_the_weights(tissue, folder):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    scale = model.module.normalization.gene_scale.clone()
    bias = model.module.decoder.bias.detach().clone()
    model.train(max_epochs=1, plan_kwargs={"lr": 1e-9}, **QUIET)
    assert torch.equal(model.module.normalization.gene_scale, scale)
    np.testing.assert_allclose(model.module.decoder.bias.detach(), bias, atol=1e-5)


def test_further_training_that_does_harm_leaves_the_weights_as_they_were(tissue, folder):
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    genes = list(model.genes[:5])
    before = model.impute_masked(genes=genes)
    model.train(max_epochs=2, plan_kwargs={"lr": 0.3}, **QUIET)
    np.testing.assert_allclose(model.impute_masked(genes=genes), before, atol=1e-5)


def test_setup_keys_of_the_section_may_differ(folder):
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150, n_interactions=2, n_sections=2)
    adata.layers["counts"], adata.X = adata.X, None
    model = sagefm.SAGEFM.from_pretrained(folder, adata, layer="counts", sample_key="sample", neighbors_key="two_rings")
    assert model.get_latent_representation().shape == (adata.n_obs, 8)
    assert "two_rings_connectivities" in adata.obsp


def test_without_an_adata_the_model_accepts_one_later(trained_model, tissue, folder, latent):
    model = sagefm.SAGEFM.from_pretrained(folder)
    assert model.adata is None and model.genes.equals(trained_model.genes)
    np.testing.assert_array_equal(model.get_latent_representation(tissue.copy()), latent)


def test_float16_halves_the_file_and_is_nearly_the_same(trained_model, tissue, folder, latent, tmp_path):
    trained_model.save_pretrained(tmp_path / "half", dtype="float16")
    sizes = [(path / WEIGHTS).stat().st_size for path in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    found = sagefm.SAGEFM.from_pretrained(tmp_path / "half", tissue.copy()).get_latent_representation()
    assert np.abs(found - latent).max() < 0.01 * latent.std()
    with pytest.raises(ValueError, match="dtype='int8' is not known"):
        trained_model.save_pretrained(tmp_path / "int", dtype="int8")


def test_the_card_holds_further_entries(trained_model, tissue, tmp_path):
    sections, metrics = [{"sample": "A1", "licence": "CC BY 4.0"}], {"r": np.float32(0.5)}
    trained_model.save_pretrained(tmp_path / "weights", card={"sections": sections, "metrics": metrics})
    card = json.loads((tmp_path / "weights" / CARD).read_text())
    assert card["sections"] == sections and card["metrics"] == {"r": 0.5}
    assert sagefm.SAGEFM.from_pretrained(tmp_path / "weights", tissue.copy()).is_trained_
    with pytest.raises(ValueError, match=r"must not have \['genes'\]"):
        trained_model.save_pretrained(tmp_path / "other", card={"genes": []})


def test_a_folder_is_replaced_only_on_request(trained_model, folder):
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        trained_model.save_pretrained(folder)
    trained_model.save_pretrained(folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_untrained_model_is_not_saved(adata, tmp_path):
    sagefm.SAGEFM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.SAGEFM(adata).save_pretrained(tmp_path / "weights")


def test_a_tilde_is_the_home_folder(trained_model, tissue, latent, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained_model.save_pretrained("~/new/weights")
    assert (tmp_path / "new" / "weights" / CARD).exists()
    model = sagefm.SAGEFM.from_pretrained("~/new/weights", tissue.copy())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    trained_model.save("~/model")
    assert (tmp_path / "model" / "model.pt").exists()
    model = sagefm.SAGEFM.load("~/model", tissue.copy())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)


# Packaged weights, and files of earlier versions.


def test_a_folder_does_not_shadow_packaged_weights_of_that_name(trained_model, tissue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained_model.save_pretrained("human-mini")
    assert len(sagefm.SAGEFM.from_pretrained("human-mini").genes) == 17_998
    for path in ("./human-mini", Path("human-mini")):
        assert sagefm.SAGEFM.from_pretrained(path).genes.equals(trained_model.genes)


def test_packaged_weights_with_an_argument_that_is_no_longer_stored_load():
    architecture = json.loads((find_weights("human-mini") / CARD).read_text())["architecture"]
    assert architecture["gene_likelihood"] == "normal"
    assert sagefm.SAGEFM.from_pretrained("human-mini").is_trained_


def test_a_card_of_an_earlier_version_loads(tissue, folder, latent):
    """With the likelihood in the architecture, and without a checksum."""
    card = json.loads((folder / CARD).read_text())
    del card["checksum"]
    card["architecture"]["gene_likelihood"] = "normal"
    (folder / CARD).write_text(json.dumps(card))
    model = sagefm.SAGEFM.from_pretrained(folder, tissue.copy())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)


def test_a_model_saved_by_an_earlier_version_loads(trained_model, tissue, latent, tmp_path):
    """The network itself stored the moments of genes, and its state had neither library size nor profile."""
    trained_model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.pt"
    content = torch.load(file, weights_only=False)
    state = {name.removeprefix("normalization."): value for name, value in content["model_state_dict"].items()}
    earlier = {name: value for name, value in state.items() if name not in ("profile", "target_depth")}
    assert {"gene_mean", "gene_scale"} < set(earlier) and not any("normalization" in name for name in earlier)
    assert (earlier["gene_mean"] > 0).any() and (earlier["gene_scale"] != 1).any()
    content["model_state_dict"] = type(content["model_state_dict"])(earlier)
    torch.save(content, file)
    model = sagefm.SAGEFM.load(tmp_path / "model", tissue.copy())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    assert model.target_depth == trained_model.target_depth
    profiles = (loaded.module.normalization.profile for loaded in (model, trained_model))
    np.testing.assert_array_equal(*profiles)


def test_shared_weights_have_the_names_of_earlier_versions(folder):
    from safetensors.torch import load_file

    names = set(load_file(folder / WEIGHTS))
    assert {"profile", "gene_mean", "gene_scale", "encoder.conv1.lin_l.weight", "decoder.bias"} <= names
    assert "target_depth" not in names and not any("normalization" in name for name in names)


# Refused.


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(tissue, folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_weights_are_refused(tissue, folder, size):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_a_flipped_bit_is_refused(tissue, folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-100] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="its hash differs"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_an_architecture_that_does_not_fit_is_refused(tissue, folder):
    architecture = json.loads((folder / CARD).read_text())["architecture"]
    change(folder, architecture={**architecture, "n_latent": 5})
    with pytest.raises(ValueError, match="do not fit the architecture on the card"):
        sagefm.SAGEFM.from_pretrained(folder, tissue.copy())


def test_too_few_genes_are_refused(tissue, folder):
    with pytest.raises(ValueError, match=r"has 3 of the model's 150 genes \(2.0%\)"):
        sagefm.SAGEFM.from_pretrained(folder, tissue[:, :3].copy())


def test_mouse_symbols_are_refused_with_advice(tissue, folder):
    mouse = tissue.copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    with pytest.raises(ValueError, match="orthologues of the model's species"):
        sagefm.SAGEFM.from_pretrained(folder, mouse)


@pytest.mark.parametrize(("weights", "right"), [("human-mini", "mouse-mini"), ("mouse-mini", "human-mini")])
def test_weights_of_the_other_species_are_refused_and_the_right_ones_named(weights, right):
    section = sagefm.datasets.simulated_tissue(12, 12, n_genes=400)
    section.var_names = read_card(packaged_weights()[right])["genes"][:400]
    with pytest.raises(GeneMismatchError, match=f"The packaged weights '{right}' know 100% of them"):
        sagefm.SAGEFM.from_pretrained(weights, section)


@pytest.mark.parametrize("weights", ["human-mini", "mouse-mini"])
def test_a_panel_of_300_known_genes_is_embedded_with_a_warning(weights, caplog):
    section = sagefm.datasets.simulated_tissue(12, 12, n_genes=300)
    section.var_names = read_card(packaged_weights()[weights])["genes"][:300]
    model = sagefm.SAGEFM.from_pretrained(weights, section)
    assert np.isfinite(model.get_latent_representation()).all()
    assert "With 300 known genes, expect less" in caplog.text


def test_packaged_weights_name_their_training_data():
    for folder in packaged_weights().values():
        sections = read_card(folder)["sections"]
        assert len(sections) > 10 and all(section["licence"] and section["sha256"] for section in sections)


def test_human_weights_know_mitochondrial_genes():
    assert {"MT-CO1", "MT-ND4"} <= set(read_card(packaged_weights()["human-mini"])["genes"])


def test_weights_that_know_a_panel_that_is_too_small_are_not_recommended():
    section = sagefm.datasets.simulated_tissue(12, 12, n_genes=90)
    section.var_names = read_card(packaged_weights()["mouse-mini"])["genes"][:90]
    with pytest.raises(GeneMismatchError, match="train a model on the section itself, `SAGEFM\\(adata\\)`\\.$"):
        sagefm.SAGEFM.from_pretrained("mouse-mini", section)
