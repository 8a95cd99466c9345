"""The published checkpoint and its gene names: files are read, or refused with the reason; code in them is not run."""

import io
import pickle
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sagefm.weights import checked_widths, module_state, read_checkpoint, read_gene_names

GENES = pd.Index([f"GENE{number:04}" for number in range(150)])

Weights = dict[str, Tensor]


def random_weights(widths: Sequence[int]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc_gene.weight": (len(GENES), widths[-1]), "fc_gene.bias": (len(GENES),)}
    for number, (n_in, n_out) in enumerate(pairwise([len(GENES), *widths]), start=1):
        shapes |= {f"conv{number}.lin.weight": (n_out, n_in), f"conv{number}.bias": (n_out,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights([24, 16, 12])


def saved(content: object, **kwargs: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return content.getvalue()


def read(content: bytes, tmp_path: Path, genes: pd.Index = GENES) -> Weights:
    """Write a file, read it, and check its shapes."""
    path = tmp_path / "given.pt"
    path.write_bytes(content)
    weights = read_checkpoint(path)
    checked_widths(weights, genes)
    return weights


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.fixture
def good(weights: Weights) -> bytes:
    return saved({"model_state_dict": weights, "hidden_channels": [24, 16, 12]})


# Files that can be read.


@pytest.mark.parametrize("widths", [[1, 1], [24, 16, 12], [16] * 7], ids=str)
def test_widths_and_names_of_the_network_follow_from_the_weights(tmp_path, widths):
    weights = read(saved({"model_state_dict": random_weights(widths)}), tmp_path)
    assert checked_widths(weights, GENES) == [150, *widths]
    state = module_state(weights)
    assert {"encoder.conv1.lin.weight", "encoder.conv1.bias", "decoder.weight", "decoder.bias"} <= set(state)
    assert len(state) == len(weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_become_float32(tmp_path, weights, dtype):
    content = saved({"model_state_dict": {name: value.to(dtype) for name, value in weights.items()}})
    assert_equal(read(content, tmp_path), {name: value.to(dtype).float() for name, value in weights.items()})


def test_other_entries_are_ignored(tmp_path, weights):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-5)
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    others = {
        "epoch": 126,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {"best": plateau.best, "num_bad_epochs": plateau.num_bad_epochs},
        "val_losses": [0.2, 0.1],
        "mask_ratio": 0.3,
        "hidden_channels": (24, 16, 12),
    }
    for new in (True, False):
        content = saved({"model_state_dict": weights, **others}, _use_new_zipfile_serialization=new)
        assert_equal(read(content, tmp_path), weights)


def test_a_tilde_is_the_home_folder(tmp_path, weights, good, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "checkpoint.pt").write_bytes(good)
    assert_equal(read_checkpoint("~/checkpoint.pt"), weights)
    np.save(tmp_path / "genes.npy", GENES.to_numpy(dtype=str))
    (tmp_path / "genes.txt").write_text("\n".join(GENES))
    for name in ("~/genes.npy", "~/genes.txt", Path("~/genes.txt")):
        assert read_gene_names(name).equals(GENES)


# Files that are damaged, hostile, or something else.


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(good, tmp_path, share):
    with pytest.raises(ValueError, match=r"given\.pt is damaged: its end is missing"):
        read(good[: int(share * len(good))], tmp_path)


def test_a_flipped_bit_among_the_weights_is_refused(good, tmp_path):
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0b100
    with pytest.raises(ValueError, match=r"is damaged: the checksum of '\w+/data/\d+' is wrong"):
        read(bytes(flipped), tmp_path)


def test_a_flipped_bit_anywhere_is_refused_or_harmless(good, tmp_path, weights):
    rng = np.random.default_rng(0)
    n_refused = 0
    places = np.concatenate(
        [rng.integers(len(good), size=100), rng.integers(1500, size=100), -rng.integers(1, 1500, 100)]
    )
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << rng.integers(8)
        try:
            found = read(bytes(flipped), tmp_path)
        except ValueError as error:
            assert "given.pt" in str(error)
            n_refused += 1
        else:
            assert_equal(found, weights)
    assert n_refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is a README, and no weights\n" * 9, "is not a torch file or is damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "is not a torch file or is damaged"),
        (b"\x40" + bytes(7) + b'{"weight": {"dtype": "F32"}}', "is not a torch file or is damaged"),
        (bytes(1000), "is not a torch file or is damaged"),
        (archive(**{"notes.txt": b"hello"}), "is not a torch file or is damaged"),
        (archive(**{"a/data.pkl": b"corrupt"}), "holds more than tensors|is not a torch file or is damaged"),
    ],
    ids=["empty", "text", "HDF5", "safetensors", "zeros", "another archive", "an archive with a corrupt pickle"],
)
def test_another_kind_of_file_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"given\.pt {message}"):
        read(content, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")
    for name in ("absent.npy", "absent.txt"):
        with pytest.raises(FileNotFoundError, match=name):
            read_gene_names(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "place", ["alone", "as weights", "among weights", "next to weights", "in an archive", "in an old file"]
)
def test_code_in_a_file_is_not_run(tmp_path, weights, place, protocol):
    evil = Touch(tmp_path / "created")
    content = {
        "alone": lambda: pickle.dumps(evil, protocol),
        "as weights": lambda: pickle.dumps({"model_state_dict": evil}, protocol),
        "among weights": lambda: saved({"model_state_dict": {**weights, "conv1.bias": evil}}, pickle_protocol=protocol),
        "next to weights": lambda: saved({"model_state_dict": weights, "optimizer": evil}, pickle_protocol=protocol),
        "in an archive": lambda: archive(**{"a/data.pkl": pickle.dumps(evil, protocol), "a/version": b"3\n"}),
        "in an old file": lambda: saved(
            {"model_state_dict": weights, "optimizer": evil},
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        ),
    }[place]()
    with pytest.raises(ValueError, match=r"more than tensors and plain values.*run code.*it was not read") as error:
        read(content, tmp_path)
    assert not evil.path.exists()
    assert "weights_only" not in str(error.value)  # no advice to run it after all
    if protocol == 2:
        assert "(io.open)" in str(error.value) or "(_io.open)" in str(error.value)


def test_a_pickled_model_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*save them alone with `torch\.save"):
        read(saved({"model_state_dict": torch.nn.Linear(2, 2)}), tmp_path)


def changed(weights: Weights, **changes: object) -> dict:
    """Return weights with some replaced, under names with `_` for `.`; None removes one."""
    names = {"conv1_weight": "conv1.lin.weight", "conv1_bias": "conv1.bias", "fc_bias": "fc_gene.bias"}
    changes = {names.get(key, key): value for key, value in changes.items()}
    return {key: value for key, value in {**weights, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: [1, 2], "has no `model_state_dict`; found list"),
        (lambda w: {"state_dict": w}, r"has no `model_state_dict`; found \['state_dict'\]"),
        (lambda w: w, r"has no `model_state_dict`; found \['conv1.bias', "),
        (lambda w: {"model_state_dict": 3}, "has no `model_state_dict`"),
        (lambda w: {"model_state_dict": {}}, r"missing \['conv1.bias', 'conv1.lin.weight', "),
        (
            lambda w: {"model_state_dict": torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict()},
            r"is not a SAGE-FM checkpoint.*unexpected \['0.bias', '0.weight'\]",
        ),
        (lambda w: {"model_state_dict": changed(w, conv1_bias=None)}, r"missing \['conv1.bias'\], unexpected \[\]"),
        (lambda w: {"model_state_dict": changed(w, fc_bias=None)}, r"missing \['fc_gene.bias'\]"),
        (
            lambda w: {"model_state_dict": changed(w, **{"conv7.bias": torch.rand(3)})},
            r"missing \[\], unexpected \['conv7.bias'\]",
        ),
        (
            lambda w: {"model_state_dict": changed(w, **{"conv4.lin.weight": torch.rand(3, 12)})},
            r"missing \['conv4.bias'\], unexpected \[\]",
        ),
        (lambda w: {"model_state_dict": changed(w, **{"batch_norm": torch.rand(3)})}, r"unexpected \['batch_norm'\]"),
        (
            lambda w: {"model_state_dict": random_weights([8])},
            r"missing \['conv2.bias', 'conv2.lin.weight'\], unexpected \[\]",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_weight=w["conv1.lin.weight"].T)},
            r"1 weights have an odd shape: conv1.lin.weight is \(150, 24\), expected \(24, 150\)",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=torch.tensor(1.0))},
            r"3 weights have an odd shape: conv1.lin.weight is \(24, 150\), expected \(1, 150\)",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.rand(150, 1))},
            r"fc_gene.bias is \(150, 1\), expected \(150,\)",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.rand(149))},
            "has 149 genes, the list of gene names 150",
        ),
        (
            lambda w: {
                "model_state_dict": changed(
                    w, conv1_bias=w["conv1.bias"].clone().index_fill_(0, torch.tensor(3), torch.nan)
                )
            },
            "has 1 values in conv1.bias that are NaN or infinite",
        ),
        (
            lambda w: {"model_state_dict": changed(w, fc_bias=torch.full((150,), 1e300, dtype=torch.float64))},
            "has 150 values in fc_gene.bias that are NaN or infinite",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=[0.0] * 24)},
            "no dense floating-point tensor for conv1.bias; found list",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_bias=torch.ones(24, dtype=torch.int64))},
            "no dense floating-point tensor for conv1.bias; found torch.int64",
        ),
        (
            lambda w: {"model_state_dict": changed(w, conv1_weight=w["conv1.lin.weight"].to_sparse())},
            "no dense floating-point tensor for conv1.lin.weight",
        ),
        (
            lambda w: {"model_state_dict": w, "hidden_channels": [1024, 512, 12]},
            r"states hidden_channels=\[1024, 512, 12\], but its weights have the widths \[24, 16, 12\]",
        ),
        (lambda w: {"model_state_dict": w, "hidden_channels": 24}, "states hidden_channels=24, but its weights"),
    ],
)
def test_an_incomplete_or_inconsistent_checkpoint_is_refused_with_the_reason(tmp_path, weights, spoil, message):
    with pytest.raises(ValueError, match=message):
        read(saved(spoil(weights)), tmp_path)


# Gene names.


def test_gene_names_come_from_a_file_or_a_sequence(tmp_path):
    np.save(tmp_path / "genes.npy", GENES.to_numpy(dtype=str))
    np.save(tmp_path / "bytes.npy", GENES.to_numpy(dtype="S"))
    (tmp_path / "genes.txt").write_text("\n".join(GENES))
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*GENES, "", ""]).encode())
    files = [tmp_path / name for name in ("genes.npy", "bytes.npy", "genes.txt", "windows.txt")]
    sequences = [GENES, list(GENES), tuple(GENES), GENES.to_numpy(), GENES.to_numpy(dtype=object), GENES.to_series()]
    for source in [*files, *map(str, files), *sequences]:
        assert list(read_gene_names(source)) == list(GENES)


def test_a_name_in_a_text_file_may_hold_a_space(tmp_path):
    (tmp_path / "genes.txt").write_text("MY GENE\nOTHER\n")
    assert list(read_gene_names(tmp_path / "genes.txt")) == ["MY GENE", "OTHER"]


@pytest.mark.parametrize("n_genes", [149, 151, 0])
def test_a_gene_list_of_another_length_is_refused(tmp_path, good, n_genes):
    names = pd.Index([f"GENE{number}" for number in range(n_genes)])
    with pytest.raises(ValueError, match=f"The checkpoint has 150 genes, the list of gene names {n_genes}"):
        read(good, tmp_path, names)


def test_duplicated_gene_names_are_refused():
    with pytest.raises(ValueError, match="gene names of the checkpoint .*more than once.*'GENE0001'"):
        read_gene_names(["GENE0001", *GENES[:-1]])


def test_a_file_of_gene_names_that_are_not_plain_strings_is_refused(tmp_path):
    path, evil = tmp_path / "genes.npy", Touch(tmp_path / "created")
    np.save(path, np.array([*GENES[:-1], evil], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"genes\.npy is not a NumPy file of plain strings.*names\.astype\(str\)"):
        read_gene_names(path)
    assert not evil.path.exists()

    np.save(path, np.arange(150.0))
    with pytest.raises(ValueError, match=r"genes\.npy holds float64, not gene names"):
        read_gene_names(path)
    with open(path, "wb") as file:
        np.savez(file, genes=GENES.to_numpy(dtype=str))
    with pytest.raises(ValueError, match=r"genes\.npy holds several arrays, not gene names"):
        read_gene_names(path)
    np.save(path, GENES.to_numpy(dtype=str))
    whole = path.read_bytes()
    for n_bytes in (0, 5, 100, len(whole) // 2):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"genes\.npy is not a NumPy file"):
            read_gene_names(path)
    (tmp_path / "genes.txt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"genes\.txt is not a text file"):
        read_gene_names(tmp_path / "genes.txt")


def test_names_of_characters_that_do_not_exist_are_refused(tmp_path):
    path = tmp_path / "genes.npy"
    np.save(path, np.array(["ACTB", "TP53"]))
    content = bytearray(path.read_bytes())
    content[-16:-12] = (0xD800).to_bytes(4, "little")  # half of a pair of code units, not a character
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"genes\.npy is damaged: it holds names that are not valid text"):
        read_gene_names(path)
