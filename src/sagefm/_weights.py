"""Weights to share: a safetensors file and a JSON card in one folder. Reading them runs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from sagefm._fields import CountsField
from sagefm._reference import empty_history

if TYPE_CHECKING:
    from typing import Self

WEIGHTS, CARD, FORMAT = "model.safetensors", "card.json", 1
_PROFILE = "profile"
_CARD_KEYS = {"format", "architecture", "genes", "target_depth", "sha256", "versions"}


class WeightsMixin(BaseModelClass):
    """`save_pretrained` and `from_pretrained`, for :class:`sagefm.SAGEFM`."""

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the trained model to a folder that can be shared: weights as safetensors, all else as JSON.

        The folder is made aside and then put in place, so an interrupted call leaves what was there.

        Parameters
        ----------
        path
            Folder to write.
        overwrite
            Whether a folder that is there is replaced.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        FileExistsError
            If the folder is there and `overwrite` is not set.

        Examples
        --------
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> model = sagefm.SAGEFM(adata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> model.save_pretrained(getfixture("tmp_path") / "weights")
        >>> same = sagefm.SAGEFM.from_pretrained(getfixture("tmp_path") / "weights", adata)
        >>> bool((same.get_latent_representation() == model.get_latent_representation()).all())
        True
        """
        self._require_training()
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already; pass `overwrite=True` to replace it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
            folder = Path(aside) / path.name
            folder.mkdir()
            profile = torch.from_numpy(np.array(self.module.normalization.profile, dtype=np.float32))
            state = {key: value.detach().cpu().contiguous() for key, value in self.module.state_dict().items()}
            save_file({**state, _PROFILE: profile}, folder / WEIGHTS)
            (folder / CARD).write_text(
                json.dumps(self._card(folder / WEIGHTS), indent=1, default=lambda number: number.item())
            )
            if path.exists():
                os.replace(path, Path(aside) / "replaced")
            os.replace(folder, path)

    def _card(self, weights: Path) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "architecture": self.init_params_["non_kwargs"],
            "genes": list(self.genes),
            "target_depth": self.target_depth,
            "sha256": _sha256(weights),
            "versions": {package: version(package) for package in ("sagefm", "scvi-tools", "torch")},
        }

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        adata: AnnData,
        *,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        neighbors_key: str = "spatial",
        gene_symbols: str | None = None,
    ) -> Self:
        """Load a folder that :meth:`save_pretrained` wrote, and set `adata` up for the model.

        Genes are matched by name. Genes that `adata` lacks are known to be missing; the log says how many there are.

        Parameters
        ----------
        path
            Folder with `model.safetensors` and `card.json`.
        adata
            Section or sections to use the model on.
        layer, sample_key, spatial_key, neighbors_key, gene_symbols
            As in :meth:`setup_anndata`.

        Returns
        -------
        SAGEFM
            A trained model on `adata`.

        Raises
        ------
        FileNotFoundError
            If a file is not there.
        ValueError
            If a file is damaged or of another kind, or if `adata` has too few of the genes.
        """
        card, tensors = read_card(Path(path) / CARD), read_weights(Path(path) / WEIGHTS)
        if card["sha256"] != _sha256(Path(path) / WEIGHTS):
            raise ValueError(f"{Path(path) / WEIGHTS} is not the file that {CARD} was written for: its hash differs.")
        setup = {"layer": layer, "sample_key": sample_key, "spatial_key": spatial_key, "gene_symbols": gene_symbols}
        cls.setup_anndata(adata, source_registry=_registry(card, tensors), neighbors_key=neighbors_key, **setup)
        model = cls(adata, **card["architecture"])
        _load_state(model.module, {key: value for key, value in tensors.items() if key != _PROFILE}, path)
        model.is_trained_, model.history_ = True, empty_history()
        return model


def read_card(path: Path) -> dict[str, Any]:
    """Read the card, having checked that everything is in it."""
    try:
        card = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or is no JSON: {error}") from error
    missing = _CARD_KEYS - set(card) if isinstance(card, dict) else _CARD_KEYS
    if missing:
        raise ValueError(f"{path} is no card of a SAGEFM model: it lacks {sorted(missing)}.")
    if card["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {card['format']}, and this version of sagefm reads {FORMAT}; update sagefm."
        )
    return card


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights; a safetensors file holds numbers and nothing that could run."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from error
    if _PROFILE not in tensors:
        raise ValueError(f"{path} holds no weights of a SAGEFM model: it has no {_PROFILE!r}.")
    return tensors


def _registry(card: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return as much of a registry as is needed to match another AnnData to the model's genes."""
    genes = pd.Index(card["genes"])
    state = {
        CountsField.N_VARS_KEY: len(genes),
        CountsField.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
        CountsField.TARGET_DEPTH_KEY: float(card["target_depth"]),
        CountsField.PROFILE_KEY: tensors[_PROFILE].numpy(),
    }
    return {"field_registries": {REGISTRY_KEYS.X_KEY: {"state_registry": state}}}


def _load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"The weights in {path} do not fit the architecture on its card: {error}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
