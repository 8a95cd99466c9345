"""Weights to share: a safetensors file and a JSON card in one folder. Reading them runs nothing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from scvi.model.base import BaseModelClass

from sagefm._fields import CountsField
from sagefm._genes import refuse_duplicates
from sagefm._reference import empty_history
from sagefm.pretraining._corpus import registry_of
from sagefm.pretraining._reading import SectionKeys

if TYPE_CHECKING:
    from typing import Self

WEIGHTS, CARD, FORMAT = "model.safetensors", "card.json", 1
PACKAGED = Path(__file__).parent / "weights"
_PROFILE = "profile"
_LOADED = ("architecture", "format", "genes", "sha256", "target_depth")  # what of a card decides on the model
_CARD_KEYS = {*_LOADED, "versions"}


class WeightsMixin(BaseModelClass):
    """`save_pretrained` and `from_pretrained`, for :class:`sagefm.SAGEFM`."""

    def save_pretrained(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the trained model to a folder that can be shared: weights as safetensors, all else as JSON.

        The folder is made aside and then put in place, so an interrupted call leaves what was there.

        Parameters
        ----------
        path
            Folder to write.
        overwrite
            Whether a folder that is there is replaced.
        dtype
            How matrices are stored; `"float16"` halves the file and rounds weights to three digits. A loaded model
            computes in float32.
        card
            What else the card should tell, as JSON: for instance `sections` that it was trained on with their licences,
            and `metrics`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `dtype` is not known, or `card` has an entry that the card has already.
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
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype={dtype!r} is not known; it is 'float32' or 'float16'.")
        if taken := sorted({*_CARD_KEYS, "checksum"} & set(card or {})):
            raise ValueError(f"`card` must not have {taken}: the model writes these itself.")
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already; pass `overwrite=True` to replace it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
            folder = Path(aside) / path.name
            folder.mkdir()
            profile = torch.from_numpy(np.array(self.module.normalization.profile, dtype=np.float32))
            state = {key: _stored(value, dtype) for key, value in self.module.state_dict().items()}
            (folder / WEIGHTS).write_bytes(serialized({**state, _PROFILE: profile}))  # with the rights of a new file
            about = json.loads(json.dumps({**self._card(folder / WEIGHTS), **(card or {})}, default=lambda x: x.item()))
            (folder / CARD).write_text(json.dumps({**about, "checksum": _checksum(about)}, indent=1))
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
        adata: AnnData | None = None,
        *,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        neighbors_key: str = "spatial",
        gene_symbols: str | None = None,
    ) -> Self:
        """Load weights that :meth:`save_pretrained` wrote, and set `adata` up for the model.

        Genes are matched by name. Genes that `adata` lacks are known to be missing; the log says how many there are.
        The model can be used as it is, or trained further: :meth:`train` goes on from the weights.

        Parameters
        ----------
        path
            Folder with `model.safetensors` and `card.json`, the name of weights that come with the package, or a
            repository of the Hugging Face Hub, `"owner/name"`, for which the extra `sagefm[hub]` is needed.
        adata
            Section or sections to use the model on; without, the model takes them later, call by call, or trains on a
            `datamodule`.
        layer, sample_key, spatial_key, neighbors_key, gene_symbols
            As in :meth:`setup_anndata`.

        Returns
        -------
        SAGEFM
            A trained model on `adata`.

        Raises
        ------
        FileNotFoundError
            If a file is not there, or weights of that name; the message lists those of the package.
        ImportError
            If the path is a repository and `huggingface_hub` is not installed.
        ValueError
            If a file is damaged or of another kind, or if `adata` has too few of the genes.

        Examples
        --------
        Weights that come with the package, on a section with human symbols for names:

        >>> import sagefm
        >>> names = sagefm.SAGEFM.from_pretrained("human-mini").genes[:2000]
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=2000)
        >>> adata.var_names = names
        >>> model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
        >>> model.get_latent_representation().shape == (adata.n_obs, 64)
        True
        """
        path = located(path)
        card, tensors = read_card(path / CARD), read_weights(path / WEIGHTS)
        if card["sha256"] != _sha256(path / WEIGHTS):
            raise ValueError(f"{path / WEIGHTS} is not the file that {CARD} was written for: its hash differs.")
        keys = SectionKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        registry = registry_of(_counts_state(card, tensors), keys)
        _refuse_misfit(cls, registry, card["architecture"], tensors, path)
        if card.get("checksum", _checksum(card)) != _checksum(card):
            raise ValueError(
                f"{path / CARD} is damaged, or was changed: its checksum is wrong. Copy or download it again."
            )
        if adata is not None:
            cls.setup_anndata(adata, source_registry=registry, **vars(keys))
        model = cls(adata, None if adata is not None else registry, **card["architecture"])
        model.module.load_state_dict({key: value for key, value in tensors.items() if key != _PROFILE})
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
    if _PROFILE not in tensors:
        raise ValueError(f"{path} holds no weights of a SAGEFM model: it has no {_PROFILE!r}.")
    return tensors


def _counts_state(card: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what a model knows of counts: its genes and the constants of its normalisation."""
    genes = pd.Index(card["genes"])
    return {
        CountsField.N_OBS_KEY: 0,
        CountsField.N_VARS_KEY: len(genes),
        CountsField.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
        CountsField.TARGET_DEPTH_KEY: float(card["target_depth"]),
        CountsField.PROFILE_KEY: tensors[_PROFILE].float().numpy(),
    }


def located(name: str | Path) -> Path:
    """Return the folder of weights: one on disk, one that comes with the package, or one of the Hugging Face Hub."""
    if Path(name).exists():
        return Path(name)
    packaged = packaged_weights()
    if str(name) in packaged:
        return packaged[str(name)]
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


def _stored(value: torch.Tensor, dtype: str) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    # Vectors are small and hold scales and means, so they keep their digits.
    return value.half() if dtype == "float16" and value.ndim > 1 else value


def _refuse_misfit(cls: type, registry: dict, architecture: dict, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raise unless the weights fit the architecture; it is built without memory, so it may be of any size."""
    try:
        if architecture.get("n_layers", 0) > len(tensors):
            raise ValueError(f"n_layers={architecture['n_layers']}, but there are {len(tensors)} tensors.")
        with torch.device("meta"):
            module = cls(None, registry, **architecture).module
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path / CARD} has an architecture that sagefm cannot build: {error}") from error
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    expected[_PROFILE] = expected["gene_mean"]
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(set(expected.items()) ^ set(found.items())):
        name = wrong[0][0]
        raise ValueError(
            f"The weights in {path} do not fit the architecture on its card: {name} is {found.get(name, 'not there')}, "
            f"expected {expected.get(name, 'none')}."
        )


def _checksum(card: Mapping[str, Any]) -> str:
    """Return a hash of what decides on the model; all else on the card may be edited."""
    return hashlib.sha256(json.dumps({key: card[key] for key in _LOADED}, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
