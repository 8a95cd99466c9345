"""The published checkpoint and its gene names, read as files one does not trust."""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd
import torch

from sagefm.data import refuse_duplicates

_EXPECTED = "conv1.lin.weight, conv1.bias, ..., fc_gene.weight, fc_gene.bias"


def read_gene_names(source: str | Path | Sequence[str]) -> pd.Index:
    """Return gene names from a `.npy` file, a text file with one name a line, or a sequence."""
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
            f"{path} is not a NumPy file of plain strings ({error}). An array of objects can only be read by running "
            "what is in it; convert it where you trust it, with `numpy.save(path, names.astype(str))`."
        ) from error
    if not isinstance(names, np.ndarray) or names.dtype.kind not in "US":
        raise ValueError(f"{path} holds {getattr(names, 'dtype', 'several arrays')}, not the names of genes.")
    try:
        "".join(names.astype(str).ravel()).encode().decode()  # NumPy lets characters through that there are not
    except UnicodeError as error:
        raise ValueError(f"{path} is damaged: it holds names that are no text ({error}).") from error
    return names


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file; gene names are one a line, or in a `.npy` file.") from error
    return [line.strip() for line in lines if line.strip()]


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights of a published checkpoint, as float32 tensors; nothing in the file is run."""
    path = Path(path).expanduser()
    is_archive = _is_sound_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's own words are left out: they advise to read the file in the way that runs its code.
        if isinstance(error, pickle.UnpicklingError) and (is_archive or _is_pickle(path)):
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({name[1]})" if name else ""
            raise ValueError(
                f"{path} holds more than tensors and plain values{what}, and reading that would run code from the "
                "file; it was not read. Expected a torch file with `model_state_dict`. Where you trust the file, take "
                "that out yourself and save it alone, with `torch.save({'model_state_dict': ...}, path)`."
            ) from error
        raise ValueError(f"{path} is no torch file, or is damaged: PyTorch cannot read it.") from error
    return _checked_weights(content, path)


def _is_sound_archive(path: str | Path) -> bool:
    """Tell whether the file is an archive, as PyTorch writes, and refuse a damaged one: PyTorch reads on in silence."""
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        raise ValueError(f"{path} is empty.")
    if start != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise ValueError(f"{path} is damaged: its end is missing or spoilt. Copy or download it again.") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged!r} is wrong. Copy or download it again.")
    return True


def _is_pickle(path: str | Path) -> bool:
    """Tell whether the file starts with a whole pickle, without running it."""
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in pickletools.genops(file)) > 0
    except ValueError:
        return False


def _checked_weights(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    weights = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} has no `model_state_dict`; found {found}.")
    n_layers = sum(bool(re.fullmatch(r"conv\d+\.lin\.weight", str(key))) for key in weights)
    numbers = range(1, max(n_layers, 2) + 1)  # one hidden layer at least
    expected = {f"conv{number}.{part}" for number in numbers for part in ("lin.weight", "bias")}
    expected |= {"fc_gene.weight", "fc_gene.bias"}
    missing, extra = sorted(expected - set(weights)), sorted(map(str, set(weights) - expected))
    if missing or extra:
        raise ValueError(
            f"{path} is not a SAGE-FM checkpoint: expected {_EXPECTED}; "
            f"missing {missing[:5]}, not expected {extra[:5]}."
        )
    weights = {key: _checked_tensor(key, value, path) for key, value in weights.items()}
    widths = [weights[f"conv{number}.bias"].numel() for number in numbers]
    stated = content.get("hidden_channels", widths)
    if not isinstance(stated, list | tuple) or list(stated) != widths:
        raise ValueError(f"{path} states hidden_channels={stated}, but its weights have the widths {widths}.")
    return weights


def _checked_tensor(key: str, value: Any, path: str | Path) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
        found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{path} has no plain floating-point tensor for {key}; found {found}.")
    value = value.float()
    if n_wrong := int((~torch.isfinite(value)).sum()):
        raise ValueError(f"{path} has {n_wrong} values in {key} that are NaN or infinite.")
    return value


def checked_widths(weights: dict[str, torch.Tensor], genes: pd.Index) -> list[int]:
    """Return the widths of the network, genes first, having checked that every shape follows from its neighbours'."""
    n_layers = len(weights) // 2 - 1
    widths = [len(genes)] + [weights[f"conv{number}.bias"].numel() for number in range(1, n_layers + 1)]
    shapes = {
        **{f"conv{i}.lin.weight": (widths[i], widths[i - 1]) for i in range(1, n_layers + 1)},
        **{f"conv{i}.bias": (widths[i],) for i in range(1, n_layers + 1)},
        "fc_gene.weight": (len(genes), widths[-1]),
        "fc_gene.bias": (len(genes),),
    }
    n_known = weights["fc_gene.bias"].numel()
    if n_known != len(genes):
        raise ValueError(f"The checkpoint has {n_known} genes, the list of gene names {len(genes)}; they must agree.")
    wrong = {key: tuple(weights[key].shape) for key, shape in shapes.items() if tuple(weights[key].shape) != shape}
    if wrong:
        key, found = next(iter(wrong.items()))
        raise ValueError(f"{len(wrong)} weights have an odd shape: {key} is {found}, expected {shapes[key]}.")
    return widths


def module_state(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under the names that they have in our network."""
    names = {"fc_gene.weight": "decoder.weight", "fc_gene.bias": "decoder.bias"}
    return {names.get(key, f"encoder.{key}"): value for key, value in weights.items()}
