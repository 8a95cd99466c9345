"""Weights to share: a folder with a safetensors file and a JSON card. Reading it runs no code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import pandas as pd
import torch
from anndata import AnnData

from sagefm._errors import GeneMismatchError, refuse_unknown
from sagefm.data import SetupKeys, gene_names, make_registry
from sagefm.model._base import SpotModel, require_training
from sagefm.module import MaskedCenterModule
from sagefm.weights import (
    CARD,
    best_packaged_weights,
    find_weights,
    read_card,
    read_tensors,
    refuse_changed_card,
    write_weights,
)

Model = TypeVar("Model", bound=SpotModel)


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
        """Write the trained model to a folder to share: weights as safetensors, everything else as JSON.

        The folder is written under a temporary name and then renamed, so an interrupted call leaves what was there.

        Parameters
        ----------
        path
            Folder to write.
        overwrite
            Whether to replace an existing folder.
        dtype
            How matrices are stored; `"float16"` halves the file and rounds weights to three digits. A loaded model
            computes in float32.
        card
            Further entries of the card, as JSON: for instance the `sections` that it was trained on, with their
            licences, and `metrics`.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `dtype` is not known, or `card` has an entry that the model writes itself.
        FileExistsError
            If the folder exists and `overwrite` is not set.

        Examples
        --------
        >>> model.save_pretrained(getfixture("tmp_path") / "weights")
        >>> same = sagefm.SAGEFM.from_pretrained(getfixture("tmp_path") / "weights", adata)
        >>> bool((same.get_latent_representation() == model.get_latent_representation()).all())
        True
        """
        require_training(self)
        refuse_unknown("dtype", dtype, ("float32", "float16"))
        tensors = {name: _stored(value, dtype) for name, value in _shared_state(self.module).items()}
        architecture, genes = self.init_params_["non_kwargs"], list(self.genes)
        entries = {"architecture": architecture, "genes": genes, "target_depth": self.target_depth}
        write_weights(Path(path).expanduser(), tensors, entries, card or {}, overwrite=overwrite)

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
        graph: Literal["auto", "grid", "knn"] = "auto",
    ) -> Self:
        """Load weights written by :meth:`save_pretrained`, and set up `adata` for the model.

        Genes are matched by name. Genes missing from `adata` are treated as not measured; their number is logged. The
        model can be used as it is, or trained further: :meth:`train` continues from the weights.

        Parameters
        ----------
        path
            Folder with `model.safetensors` and `card.json`, the name of weights that come with the package, or a
            repository on the Hugging Face Hub, `"owner/name"`, which needs the extra `sagefm[hub]`. The name of
            packaged weights has priority over a folder of that name; for the folder, pass `"./name"` or a `Path`.
        adata
            Section or sections to use the model on. Without it, pass an AnnData to each call, or train on a
            `datamodule`.
        layer, sample_key, spatial_key, neighbors_key, gene_symbols, graph
            As in :meth:`setup_anndata`.

        Returns
        -------
        SAGEFM
            A trained model on `adata`.

        Raises
        ------
        FileNotFoundError
            If a file does not exist, or there are no weights of that name; the message lists those of the package.
        ImportError
            If the path is a repository and `huggingface_hub` is not installed.
        ValueError
            If a file is damaged or of another kind, or if `adata` has too few of the genes.

        Examples
        --------
        Weights that come with the package, on a section whose genes have human symbols:

        >>> section = sagefm.datasets.simulated_tissue(12, 12, n_genes=2000)
        >>> section.var_names = sagefm.SAGEFM.from_pretrained("human-mini").genes[:2000]
        >>> pretrained = sagefm.SAGEFM.from_pretrained("human-mini", section)
        >>> pretrained.get_latent_representation().shape == (section.n_obs, 64)
        True
        """
        folder = find_weights(path)
        card = read_card(folder)
        tensors = read_tensors(folder, card["sha256"])
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        depth, profile = float(card["target_depth"]), tensors["profile"].float().numpy()
        genes = pd.Index(card["genes"])
        registry = make_registry(genes, target_depth=depth, profile=profile, keys=keys, graph=graph)
        _refuse_misfit(cls, registry, card["architecture"], tensors, folder)
        refuse_changed_card(card, folder)
        if adata is not None:
            try:
                cls.setup_anndata(adata, source_registry=registry, **vars(keys), graph=graph)
            except GeneMismatchError as error:
                raise GeneMismatchError(f"{error}{_better_weights(gene_names(adata, gene_symbols), genes)}") from None
        model = cls(adata, None if adata is not None else registry, **card["architecture"])
        return load_trained(model, tensors, source=str(path))


def _better_weights(section_genes: pd.Index, genes: pd.Index) -> str:
    """Return a sentence that names packaged weights that know many more of the section's genes, if there are any."""
    name, share = best_packaged_weights(section_genes)
    is_better = share > 0.5 and share > 2 * section_genes.isin(genes).mean()
    return f" The packaged weights {name!r} know {share:.0%} of them." if is_better else ""


def load_trained(model: Model, state: Mapping[str, torch.Tensor], *, source: str) -> Model:
    """Load trained weights into a new model, which remembers their name or path, `source`."""
    model.module.load_state_dict(state)
    model.is_trained_, model.weights_source_ = True, source
    # scvi-tools adds the losses of further training to an existing history only.
    epochs = pd.RangeIndex(0, name="epoch")
    losses = ("train_loss", "validation_loss")
    model.history_ = {name: pd.DataFrame({name: []}, index=epochs, dtype=object) for name in losses}
    return model


def _shared_state(module: MaskedCenterModule) -> dict[str, torch.Tensor]:
    """Return the network's state under the names in files; the target depth is on the card."""
    state = {name.removeprefix("normalization."): value for name, value in module.state_dict().items()}
    del state["target_depth"]
    return state


def _stored(value: torch.Tensor, dtype: str) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    # Vectors, which hold scales and means, are small: they stay float32.
    return value.half() if dtype == "float16" and value.ndim > 1 else value


def _refuse_misfit(cls: type, registry: dict, architecture: dict, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raise unless the weights fit the architecture; it is built on the meta device, so any size fits in memory."""
    try:
        if architecture.get("n_layers", 0) > len(tensors):
            raise ValueError(f"n_layers={architecture['n_layers']}, but there are {len(tensors)} tensors.")
        with torch.device("meta"):
            module = cls(None, registry, **architecture).module
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path / CARD} has an architecture that sagefm cannot build: {error}") from error
    expected = {name: tuple(value.shape) for name, value in _shared_state(module).items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(set(expected.items()) ^ set(found.items())):
        name = wrong[0][0]
        raise ValueError(
            f"The weights in {path} do not fit the architecture on the card: {name} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'none')}."
        )
