"""Folders of shared weights: where they are looked for, and that they are replaced as a whole or not at all."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sagefm.weights import (
    CARD,
    PACKAGED,
    WEIGHTS,
    find_weights,
    packaged_weights,
    read_card,
    read_tensors,
    refuse_changed_card,
    write_weights,
)

TENSORS = {"profile": torch.full((3,), 1 / 3), "decoder.bias": torch.zeros(3)}
MODEL = {"architecture": {"n_latent": 2}, "genes": ["A", "B", "C"], "target_depth": 1000.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_weights(tmp_path / "weights", TENSORS, MODEL, {}, overwrite=False)
    return tmp_path / "weights"


# Where they are.


def test_packaged_weights_are_small_enough_for_the_wheel():
    folders = packaged_weights()
    assert PACKAGED.parent.name == "sagefm" and set(folders) == {"human-mini", "mouse-mini"}
    assert sum(file.stat().st_size for path in folders.values() for file in path.iterdir()) < 25e6


def test_a_folder_does_not_shadow_packaged_weights_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "human-mini").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_weights("human-mini") == PACKAGED / "human-mini"
    for name in ("./human-mini", Path("human-mini"), str(tmp_path / "human-mini")):
        assert find_weights(name).resolve() == tmp_path / "human-mini"


def test_an_unknown_name_is_refused_with_the_names_of_packaged_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("human-maxi", "./someone/weights", "/no/such/folder", Path("absent")):
        with pytest.raises(FileNotFoundError, match=r"neither a folder nor the name of weights.*human-mini"):
            find_weights(name)


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("~/weights", Path("~/weights")):
        assert find_weights(name) == folder


def test_a_repository_is_downloaded_from_the_hub(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package, requested = ModuleType("huggingface_hub"), []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        requested.append((repository, allow_patterns))
        return str(folder)

    package.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    assert find_weights("someone/weights") == folder
    assert requested == [("someone/weights", [WEIGHTS, CARD])]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'sagefm\[hub\]'"):
        find_weights("someone/weights")
    (tmp_path / "someone" / "weights").mkdir(parents=True)  # a folder has priority
    assert find_weights("someone/weights") == Path("someone/weights")


# Reading and writing.


def test_what_is_written_is_read(folder):
    assert {file.name for file in folder.iterdir()} == {CARD, WEIGHTS}
    card = read_card(folder)
    assert {key: card[key] for key in MODEL} == MODEL and card["format"] == 1
    assert set(card["versions"]) == {"sagefm", "scvi-tools", "torch"}
    tensors = read_tensors(folder, card["sha256"])
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)
    refuse_changed_card(card, folder)


def test_notes_may_be_edited_and_what_defines_the_model_may_not(folder):
    card = read_card(folder)
    refuse_changed_card({**card, "licence": "CC0", "versions": {}}, folder)
    refuse_changed_card({key: value for key, value in card.items() if key != "checksum"}, folder)
    with pytest.raises(ValueError, match=r"card\.json is damaged or was changed"):
        refuse_changed_card({**card, "genes": ["A", "B", "D"]}, folder)


def test_a_folder_is_replaced_only_on_request(folder):
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        write_weights(folder, TENSORS, MODEL, {}, overwrite=False)
    (folder / "old").touch()
    write_weights(folder, TENSORS, MODEL, {}, overwrite=True)
    assert {file.name for file in folder.iterdir()} == {CARD, WEIGHTS}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_call_leaves_what_was_there(folder, monkeypatch):
    before = (folder / CARD).read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="disk full"):
            write_weights(folder, TENSORS, {**MODEL, "target_depth": 1.0}, {}, overwrite=True)
    assert (folder / CARD).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_card_of_another_kind_is_refused(folder):
    for content, message in (
        (json.dumps({**read_card(folder), "format": 99}), "has format 99; this version of sagefm reads 1"),
        ("{}", "is not the card of a SAGEFM model: it lacks"),
        ("[1]", "is not the card of a SAGEFM model"),
        ("{", "is damaged or not a JSON file"),
    ):
        (folder / CARD).write_text(content)
        with pytest.raises(ValueError, match=rf"card\.json {message}"):
            read_card(folder)
