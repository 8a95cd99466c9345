"""Weights to share: a safetensors file and a JSON card in one folder. Reading them runs nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch
from anndata import AnnData
from safetensors.torch import save as serialized

from sagefm._errors import refuse_unknown
from sagefm.data import SetupKeys, checksum_of, make_registry
from sagefm.model._base import SpotModel, require_training
from sagefm.model._callbacks import empty_history
from sagefm.weights import (
    CARD,
    CARD_KEYS,
    FORMAT,
    PROFILE,
    WEIGHTS,
    card_checksum,
    file_names,
    find_weights,
    read_card,
    read_weights,
)


class PretrainedMixin(SpotModel):
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
        >>> model.save_pretrained(getfixture("tmp_path") / "weights")
        >>> same = sagefm.SAGEFM.from_pretrained(getfixture("tmp_path") / "weights", adata)
        >>> bool((same.get_latent_representation() == model.get_latent_representation()).all())
        True
        """
        require_training(self)
        refuse_unknown("dtype", dtype, ("float32", "float16"))
        if taken := sorted({*CARD_KEYS, "checksum"} & set(card or {})):
            raise ValueError(f"`card` must not have {taken}: the model writes these itself.")
        path = Path(path).expanduser()
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already; pass `overwrite=True` to replace it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
            folder = Path(aside) / path.name
            folder.mkdir()
            state = {key: _stored(value, dtype) for key, value in file_names(self.module.state_dict()).items()}
            (folder / WEIGHTS).write_bytes(serialized(state))  # with the permissions of a new file
            about = json.loads(json.dumps({**self._card(folder / WEIGHTS), **(card or {})}, default=lambda x: x.item()))
            (folder / CARD).write_text(json.dumps({**about, "checksum": card_checksum(about)}, indent=1))
            if path.exists():
                os.replace(path, Path(aside) / "replaced")
            os.replace(folder, path)

    def _card(self, weights: Path) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "architecture": self.init_params_["non_kwargs"],
            "genes": list(self.genes),
            "target_depth": self.target_depth,
            "sha256": checksum_of(weights),
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
        path = find_weights(path)
        card, tensors = read_card(path / CARD), read_weights(path / WEIGHTS)
        if card["sha256"] != checksum_of(path / WEIGHTS):
            raise ValueError(f"{path / WEIGHTS} is not the file that {CARD} was written for: its hash differs.")
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        depth, profile = float(card["target_depth"]), tensors[PROFILE].float().numpy()
        registry = make_registry(pd.Index(card["genes"]), target_depth=depth, profile=profile, keys=keys)
        _refuse_misfit(cls, registry, card["architecture"], tensors, path)
        if card.get("checksum", card_checksum(card)) != card_checksum(card):
            raise ValueError(
                f"{path / CARD} is damaged, or was changed: its checksum is wrong. Copy or download it again."
            )
        if adata is not None:
            cls.setup_anndata(adata, source_registry=registry, **vars(keys))
        model = cls(adata, None if adata is not None else registry, **card["architecture"])
        model.module.load_state_dict(tensors)
        model.is_trained_, model.history_ = True, empty_history()
        return model


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
    expected = {name: tuple(value.shape) for name, value in file_names(module.state_dict()).items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(set(expected.items()) ^ set(found.items())):
        name = wrong[0][0]
        raise ValueError(
            f"The weights in {path} do not fit the architecture on its card: {name} is {found.get(name, 'not there')}, "
            f"expected {expected.get(name, 'none')}."
        )
