"""The files of shared weights: where they lie, a card in JSON and tensors in safetensors, checked on reading."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sagefm.data import refuse_duplicates

WEIGHTS, CARD, FORMAT = "model.safetensors", "card.json", 1
PACKAGED = Path(__file__).parent
PROFILE = "profile"
_LOADED = ("architecture", "format", "genes", "sha256", "target_depth")  # what of a card decides on the model
CARD_KEYS = {*_LOADED, "versions"}


def read_card(path: Path) -> dict[str, Any]:
    """Read the card, having checked that everything is in it."""
    try:
        card = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or is no JSON: {error}") from error
    missing = CARD_KEYS - set(card) if isinstance(card, dict) else CARD_KEYS
    if missing:
        raise ValueError(f"{path} is no card of a SAGEFM model: it lacks {sorted(missing)}.")
    if card["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {card['format']}, and this version of sagefm reads {FORMAT}; update sagefm."
        )
    _refuse_bad_entries(card, path)
    return card


def _refuse_bad_entries(card: dict[str, Any], path: Path) -> None:
    """Raise if an entry that is used is not of its kind."""
    genes, depth, architecture = card["genes"], card["target_depth"], card["architecture"]
    if not isinstance(architecture, dict):
        raise ValueError(f"{path} has no architecture by name; found {type(architecture).__name__}.")
    if not isinstance(depth, int | float) or not 0 < depth < math.inf:
        raise ValueError(f"{path} has target_depth={depth!r}; expected a positive number.")
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise ValueError(f"{path} has no list of names as genes.")
    refuse_duplicates(pd.Index(genes, dtype=str), f"genes in {path}", "the file that was shared, unchanged")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights; a safetensors file holds numbers and nothing that could run."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from error
    if PROFILE not in tensors:
        raise ValueError(f"{path} holds no weights of a SAGEFM model: it has no {PROFILE!r}.")
    return tensors


def file_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a network's state under the names that files use; the target depth is on the card."""
    names = {name: name.removeprefix("normalization.") for name in state}
    return {name: state[key] for key, name in names.items() if name != "target_depth"}


def find_weights(name: str | Path) -> Path:
    """Return the folder of weights: one that comes with the package, one on disk, or one of the Hugging Face Hub."""
    packaged = packaged_weights()
    if isinstance(name, str) and name in packaged:
        return packaged[name]
    if (folder := Path(name).expanduser()).exists():
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not str(name).startswith("."):
        return _from_hub(str(name))
    raise FileNotFoundError(
        f"{str(name)!r} is neither a folder nor weights that come with sagefm; these are {sorted(packaged) or 'none'}. "
        "Weights of the Hugging Face Hub are named as 'owner/name'."
    )


def packaged_weights() -> dict[str, Path]:
    """Return the folders of weights that come with the package, by name."""
    return {folder.name: folder for folder in sorted(PACKAGED.glob("*")) if (folder / CARD).exists()}


def _from_hub(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{repository!r} is no folder; to take it for a repository of the Hugging Face Hub, "
            "`pip install 'sagefm[hub]'`."
        ) from error
    return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CARD]))


def card_checksum(card: Mapping[str, Any]) -> str:
    """Return a hash of what decides on the model; all else on the card may be edited."""
    return hashlib.sha256(json.dumps({key: card[key] for key in _LOADED}, sort_keys=True).encode()).hexdigest()
