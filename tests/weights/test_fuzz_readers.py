"""Corrupted files: truncated or with flipped bits, a file is rejected by name or loads as the same model."""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import sagefm
from sagefm.weights import CARD, WEIGHTS, read_gene_names

N_FLIPS, N_CUTS = 80, 25
REJECTIONS = (ValueError, OSError)


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(8, 8, n_genes=60, n_layers=2, n_niches=1, n_interactions=1)
    sagefm.SAGEFM.setup_anndata(adata)
    adata.uns.clear()
    return adata


@pytest.fixture(scope="module")
def model(section: ad.AnnData) -> sagefm.SAGEFM:
    seed, scvi.settings.seed = scvi.settings.seed, 0
    adata = section.copy()
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=4)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    scvi.settings.seed = seed
    return model


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if Python's own unpickler, which runs code in a file, is called."""

    def fail(*args: object, **kwargs: object) -> None:
        pytest.fail("a pickle was run")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, fail)


def corrupted(content: bytes, seed: int) -> Iterator[bytes]:
    """Yield the content truncated, with a flipped bit, with a byte more or less, and with overwritten bytes."""
    rng = np.random.default_rng(seed)
    for size in np.unique(np.concatenate([[0, 1, 7, 8, 9], rng.integers(len(content), size=N_CUTS)])):
        yield content[:size]
    # Half of the flips are near the start or the end, where formats keep their headers.
    margin = min(400, len(content))
    near = np.concatenate([rng.integers(margin, size=N_FLIPS // 4), -rng.integers(1, margin, size=N_FLIPS // 4)])
    for place in np.concatenate([near, rng.integers(len(content), size=N_FLIPS // 2)]):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        yield bytes(changed)
    for place in rng.integers(len(content), size=10):
        yield content[:place] + content[place + 1 :]
        yield content[:place] + b"\x00" + content[place:]
        yield content[:place] + rng.bytes(16) + content[place + 16 :]


def loads_as(model: sagefm.SAGEFM, folder: Path) -> bool:
    """Whether the folder loads; if it does, the model must be the same."""
    try:
        loaded = sagefm.SAGEFM.from_pretrained(folder)
    except REJECTIONS as error:
        assert folder.name in str(error), error
        return False
    assert loaded.genes.equals(model.genes) and loaded.target_depth == model.target_depth
    assert loaded.init_params_["non_kwargs"] == model.init_params_["non_kwargs"]
    expected = model.module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.module.state_dict().items())
    return True


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_corrupted_file_of_shared_weights_is_rejected_or_harmless(model, tmp_path, name):
    model.save_pretrained(tmp_path / "weights")
    content = (tmp_path / "weights" / name).read_bytes()
    outcomes = []
    for changed in corrupted(content, seed=0):
        (tmp_path / "weights" / name).write_bytes(changed)
        outcomes.append(loads_as(model, tmp_path / "weights"))
    assert len(outcomes) > 130
    assert sum(outcomes) < len(outcomes) / 4  # those left: versions, which are recorded and not used


ENTRIES = [None, True, -1, 0, 1e309, 10**15, "x", [], {}, [[]], {"conv": 3}]


@pytest.mark.parametrize("key", ["format", "architecture", "genes", "target_depth", "sha256"])
@pytest.mark.parametrize("value", ENTRIES, ids=repr)
def test_an_invalid_entry_of_the_card_is_rejected(model, tmp_path, key, value):
    model.save_pretrained(tmp_path / "weights")
    path = tmp_path / "weights" / CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert not loads_as(model, tmp_path / "weights")


@pytest.mark.parametrize("key", ["n_latent", "n_hidden", "n_layers", "conv", "dropout_rate", "normalization"])
@pytest.mark.parametrize("value", ENTRIES, ids=repr)
def test_an_invalid_architecture_is_rejected(model, tmp_path, key, value):
    model.save_pretrained(tmp_path / "weights")
    path = tmp_path / "weights" / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "architecture": {**card["architecture"], key: value}}))
    assert not loads_as(model, tmp_path / "weights")


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    widths, rng = [60, 8, 4], torch.Generator().manual_seed(0)
    shapes = {f"conv{i}.lin.weight": (widths[i], widths[i - 1]) for i in (1, 2)} | {"fc_gene.weight": (60, 4)}
    shapes |= {"conv1.bias": (8,), "conv2.bias": (4,), "fc_gene.bias": (60,)}
    return {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}


@pytest.mark.parametrize("new", [True, False], ids=["archive", "old format"])
def test_a_corrupted_checkpoint_is_rejected_or_harmless(section, checkpoint, tmp_path, new):
    """The old format has no checksums, so a flipped bit among the numbers cannot be detected."""
    file, path = io.BytesIO(), tmp_path / "given.pt"
    torch.save({"model_state_dict": checkpoint}, file, _use_new_zipfile_serialization=new)
    n_rejected = n_loaded = 0
    for changed in corrupted(file.getvalue(), seed=1):
        path.write_bytes(changed)
        try:
            loaded = sagefm.SAGEFM.from_reference_checkpoint(path, section.var_names, section.copy())
        except REJECTIONS as error:
            assert "given.pt" in str(error) or "weights have an odd shape" in str(error), error
            n_rejected += 1
        else:
            n_loaded += 1
            state = loaded.module.encoder.state_dict()
            assert all(torch.equal(state[key], value) for key, value in checkpoint.items() if key in state) or not new
    assert n_rejected > n_loaded


@pytest.mark.parametrize("code", [0xD800, 0x110000, 0x7FFFFFFF])
def test_a_name_with_a_character_that_does_not_exist_is_rejected(tmp_path, code):
    names = np.array(["GENE1", "GENE2"])
    names.view(np.uint32)[4] = code
    np.save(tmp_path / "genes.npy", names)
    with pytest.raises(ValueError, match="holds names that are not valid text"):
        read_gene_names(tmp_path / "genes.npy")


def test_a_corrupted_list_of_genes_is_rejected_or_harmless(section, tmp_path):
    """A changed letter gives another name; the file holds only names, or is rejected."""
    path = tmp_path / "genes.npy"
    np.save(path, section.var_names.to_numpy().astype(str))
    content = path.read_bytes()
    n_rejected = 0
    for changed in corrupted(content, seed=2):
        path.write_bytes(changed)
        try:
            assert all(isinstance(name, str) for name in read_gene_names(path))
        except REJECTIONS:
            n_rejected += 1
    assert n_rejected > 20
