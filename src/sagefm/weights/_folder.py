"""Folders of shared weights: a card in JSON and tensors in safetensors. Both are checked on reading; nothing is run."""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sagefm.data import checksum_of, refuse_duplicates

WEIGHTS, CARD = "model.safetensors", "card.json"
PACKAGED = Path(__file__).parent
_FORMAT = 1
_IDENTITY = ("architecture", "format", "genes", "sha256", "target_depth")  # the entries that define the model
_REQUIRED = {*_IDENTITY, "versions"}

Tensors = dict[str, torch.Tensor]
Entries = Mapping[str, Any]


def find_weights(name: str | Path) -> Path:
    """Return the folder of weights: packaged with sagefm, on disk, or downloaded from the Hugging Face Hub."""
    packaged = packaged_weights()
    if isinstance(name, str) and name in packaged:
        return packaged[name]
    if (folder := Path(name).expanduser()).exists():
        return folder
    if re.fullmatch(r"(?!\.)[\w.-]+/[\w.-]+", str(name)):
        return _from_hub(str(name))
    raise FileNotFoundError(
        f"{str(name)!r} is neither a folder nor the name of weights that come with sagefm: "
        f"{', '.join(sorted(packaged)) or 'none'}. For weights on the Hugging Face Hub, use 'owner/name'."
    )


def packaged_weights() -> dict[str, Path]:
    """Return the folders of weights that come with the package, by name."""
    return {card.parent.name: card.parent for card in sorted(PACKAGED.glob(f"*/{CARD}"))}


def best_packaged_weights(genes: pd.Index) -> tuple[str, float]:
    """Return the name of the packaged weights that know most of `genes`, and the share of them that they know."""
    known = {name: float(genes.isin(read_card(folder)["genes"]).mean()) for name, folder in packaged_weights().items()}
    return max(known.items(), key=lambda item: item[1])


def _from_hub(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"There is no folder {repository!r}. To download the repository of that name from the Hugging Face Hub, "
            "use `pip install 'sagefm[hub]'` first."
        ) from error
    return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CARD]))


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card, and check that all entries are there and of the expected kind."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a JSON file: {error}") from error
    if missing := _REQUIRED - set(card) if isinstance(card, dict) else _REQUIRED:
        raise ValueError(f"{path} is not the card of a SAGEFM model: it lacks {sorted(missing)}.")
    if card["format"] != _FORMAT:
        raise ValueError(f"{path} has format {card['format']}; this version of sagefm reads {_FORMAT}. Update sagefm.")
    genes, depth, architecture = card["genes"], card["target_depth"], card["architecture"]
    if not isinstance(architecture, dict):
        raise ValueError(f"{path}: expected `architecture` to be an object; found {type(architecture).__name__}.")
    if not isinstance(depth, int | float) or not 0 < depth < math.inf:
        raise ValueError(f"{path} has target_depth={depth!r}; expected a positive number.")
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise ValueError(f"{path}: expected `genes` to be a list of names.")
    refuse_duplicates(pd.Index(genes, dtype=str), f"genes in {path}", "the file that was shared, unchanged")
    return card


def read_tensors(folder: Path, sha256: str) -> Tensors:
    """Read the tensors, and check the hash of their file against the card's; safetensors cannot hold code."""
    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    if "profile" not in tensors:
        raise ValueError(f"{path} does not hold the weights of a SAGEFM model: it has no 'profile'.")
    if checksum_of(path) != sha256:
        raise ValueError(f"{path} is not the file that {CARD} was written for: its hash differs.")
    return tensors


def refuse_changed_card(card: Entries, folder: Path) -> None:
    """Raise if an entry that defines the model has changed since the card was written."""
    if card.get("checksum", _checksum(card)) != _checksum(card):
        path = folder / CARD
        raise ValueError(f"{path} is damaged or was changed: its checksum is wrong. Copy or download it again.")


def _checksum(card: Entries) -> str:
    return hashlib.sha256(json.dumps({key: card[key] for key in _IDENTITY}, sort_keys=True).encode()).hexdigest()


def write_weights(path: Path, tensors: Tensors, model: Entries, notes: Entries, *, overwrite: bool) -> None:
    """Write a folder of weights; an interrupted call leaves what was there.

    Parameters
    ----------
    path
        The folder.
    tensors
        Contents of the safetensors file.
    model
        The card's `architecture`, `genes` and `target_depth`.
    notes
        Further entries of the card.
    overwrite
        Whether to replace an existing folder.
    """
    if taken := sorted({*_REQUIRED, "checksum"} & set(notes)):
        raise ValueError(f"`card` must not have {taken}: the model writes these itself.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; pass `overwrite=True` to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        folder = Path(temporary) / path.name
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(save(tensors))  # unlike `save_file`, with the permissions of a new file
        versions = {package: version(package) for package in ("sagefm", "scvi-tools", "torch")}
        entries = {"format": _FORMAT, **model, "sha256": checksum_of(folder / WEIGHTS), "versions": versions, **notes}
        card = json.loads(json.dumps(entries, default=lambda number: number.item()))  # NumPy numbers
        (folder / CARD).write_text(json.dumps({**card, "checksum": _checksum(card)}, indent=1))
        if path.exists():
            os.replace(path, Path(temporary) / "replaced")
        os.replace(folder, path)
