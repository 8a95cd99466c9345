"""The published checkpoint and its gene names, read without trusting the files."""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd
import torch

from sagefm.data import refuse_duplicates

_EXPECTED = "conv1.lin.weight, conv1.bias, ..., fc_gene.weight, fc_gene.bias"


def read_gene_names(source: str | Path | Sequence[str]) -> pd.Index:
    """Return gene names from a `.npy` file, a text file with one name per line, or a sequence."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        names = _read_npy(path) if path.suffix == ".npy" else _read_lines(path)
    else:
        names = list(source)
    genes = pd.Index(np.asarray(names).astype(str).ravel())
    refuse_duplicates(genes, "gene names of the checkpoint", "the list that came with it, unchanged")
    return genes


def _read_npy(path: Path) -> np.ndarray:
    try:
        names = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, TokenError) as error:
        raise ValueError(
            f"{path} is not a NumPy file of plain strings ({error}). Reading an array of objects can run code. If you "
            "trust the file, convert it with `numpy.save(path, names.astype(str))`."
        ) from error
    if not isinstance(names, np.ndarray) or names.dtype.kind not in "US":
        raise ValueError(f"{path} holds {getattr(names, 'dtype', 'several arrays')}, not gene names.")
    try:
        "".join(names.astype(str).ravel()).encode().decode()  # NumPy accepts characters that do not exist
    except UnicodeError as error:
        raise ValueError(f"{path} is damaged: it holds names that are not valid text ({error}).") from error
    return names


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file. Expected one gene name per line, or a `.npy` file.") from error
    return [line.strip() for line in lines if line.strip()]


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights of a published checkpoint as float32 tensors; code in the file is not run."""
    path = Path(path).expanduser()
    is_archive = _is_sound_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's message is not repeated: it advises reading the file in a way that runs its code.
        if isinstance(error, pickle.UnpicklingError) and (is_archive or _is_pickle(path)):
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({name[1]})" if name else ""
            raise ValueError(
                f"{path} holds more than tensors and plain values{what}. Reading that would run code from the file, so "
                "it was not read. Expected a torch file with `model_state_dict`. If you trust the file, extract the "
                "weights yourself and save them alone with `torch.save({'model_state_dict': ...}, path)`."
            ) from error
        raise ValueError(f"{path} is not a torch file or is damaged: PyTorch cannot read it.") from error
    return _checked_weights(content, path)


def _is_sound_archive(path: Path) -> bool:
    """Return whether the file is a zip archive, as PyTorch writes; refuse a damaged one, which PyTorch would read."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ValueError(f"{path} is empty.")
    if start != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise ValueError(f"{path} is damaged: its end is missing or corrupt. Copy or download it again.") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged!r} is wrong. Copy or download it again.")
    return True


def _is_pickle(path: Path) -> bool:
    """Return whether the file starts with a complete pickle, without running it."""
    try:
        with path.open("rb") as file:
            return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(file))
    except ValueError:
        return False


def _checked_weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    weights = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} has no `model_state_dict`; found {found}.")
    n_layers = sum(bool(re.fullmatch(r"conv\d+\.lin\.weight", str(key))) for key in weights)
    numbers = range(1, max(n_layers, 2) + 1)  # at least one hidden layer
    expected = {f"conv{number}.{part}" for number in numbers for part in ("lin.weight", "bias")}
    expected |= {"fc_gene.weight", "fc_gene.bias"}
    missing, extra = sorted(expected - set(weights)), sorted(map(str, set(weights) - expected))
    if missing or extra:
        raise ValueError(
            f"{path} is not a SAGE-FM checkpoint: expected {_EXPECTED}; missing {missing[:5]}, unexpected {extra[:5]}."
        )
    weights = {key: _checked_tensor(key, value, path) for key, value in weights.items()}
    widths = _widths(weights)
    stated = content.get("hidden_channels", widths)
    if not isinstance(stated, list | tuple) or list(stated) != widths:
        raise ValueError(f"{path} states hidden_channels={stated}, but its weights have the widths {widths}.")
    return weights


def _checked_tensor(key: str, value: Any, path: Path) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
        found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{path} has no dense floating-point tensor for {key}; found {found}.")
    value = value.float()
    if n_wrong := int((~torch.isfinite(value)).sum()):
        raise ValueError(f"{path} has {n_wrong} values in {key} that are NaN or infinite.")
    return value


def _widths(weights: dict[str, torch.Tensor]) -> list[int]:
    """Return the width of each convolution; the decoder makes up the last two tensors."""
    return [weights[f"conv{number}.bias"].numel() for number in range(1, len(weights) // 2)]


def checked_widths(weights: dict[str, torch.Tensor], genes: pd.Index) -> list[int]:
    """Return the widths of the network, genes first, after checking that the shapes of all weights fit together."""
    n_known = weights["fc_gene.bias"].numel()
    if n_known != len(genes):
        raise ValueError(f"The checkpoint has {n_known} genes, the list of gene names {len(genes)}; they must agree.")
    widths = [len(genes), *_widths(weights)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        shapes |= {f"conv{number}.lin.weight": (n_out, n_in), f"conv{number}.bias": (n_out,)}
    shapes |= {"fc_gene.weight": (len(genes), widths[-1]), "fc_gene.bias": (len(genes),)}
    wrong = [(key, tuple(weights[key].shape)) for key in shapes if weights[key].shape != shapes[key]]
    if wrong:
        key, found = wrong[0]
        raise ValueError(f"{len(wrong)} weights have an odd shape: {key} is {found}, expected {shapes[key]}.")
    return widths


def module_state(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under their names in :class:`MaskedCenterModule`."""
    names = {"fc_gene.weight": "decoder.weight", "fc_gene.bias": "decoder.bias"}
    return {names.get(key, f"encoder.{key}"): value for key, value in weights.items()}
