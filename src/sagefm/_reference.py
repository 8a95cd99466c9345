"""The published SAGE-FM: its architecture, its training, and its checkpoints, read without running what is in them."""

from __future__ import annotations

import copy
import pickle
import pickletools
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from sagefm._fields import CountsField, SectionField
from sagefm._genes import gene_names, match_genes, refuse_duplicates
from sagefm._graph import NEAREST_14, build_graph
from sagefm._logging import logger

if TYPE_CHECKING:
    from typing import Self


_EXPECTED = "conv1.lin.weight, conv1.bias, ..., fc_gene.weight, fc_gene.bias"


def published_architecture() -> dict[str, Any]:
    """Return the arguments of :class:`sagefm.SAGEFM` that make the network of the SAGE-FM paper (arXiv:2601.15504).

    Five graph convolutions of 1024, 512, 512, 512 and 1024 units on raw log counts, and a rectified linear decoder.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.SAGEFM.published_architecture()["n_hidden"]
    (1024, 512, 512, 512)
    """
    return {
        "conv": "gcn",
        "n_hidden": (1024, 512, 512, 512),
        "n_latent": 1024,
        "dropout_rate": 0.0,
        "mask_fraction": 0.3,
        "normalization": "none",
        "scale_genes": False,
    }


def published_training() -> dict[str, Any]:
    """Return the arguments of :meth:`sagefm.SAGEFM.train` that train as the SAGE-FM paper does (arXiv:2601.15504).

    Examples
    --------
    >>> import sagefm
    >>> sagefm.SAGEFM.published_training()["plan_kwargs"]["lr"]
    5e-05
    """
    return {
        "batch_size": 64,
        "train_size": 0.8,
        "validation_size": 0.1,
        "early_stopping": True,
        "early_stopping_patience": 10,
        "plan_kwargs": {
            "lr": 5e-5,
            "weight_decay": 1e-4,
            "eps": 1e-8,
            "reduce_lr_on_plateau": True,
            "lr_factor": 0.9,
            "lr_patience": 10,
        },
    }


def read_gene_names(source: str | Path | Sequence[str]) -> pd.Index:
    """Return gene names from a `.npy` file, a text file with one name a line, or a sequence."""
    if isinstance(source, str | Path):
        path = Path(source)
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


def registry_with_genes(registry: dict, genes: pd.Index, section_genes: pd.Index) -> dict:
    """Return the registry of a section with `genes` for its own; a gene it lacks has no share in the counts."""
    registry = copy.deepcopy(registry)
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    columns = match_genes(genes, section_genes)
    profile = np.where(columns >= 0, state[CountsField.PROFILE_KEY][columns], 0)
    state[CountsField.COLUMN_NAMES_KEY] = genes.to_numpy(dtype=object)
    state[CountsField.N_VARS_KEY] = len(genes)
    state[CountsField.PROFILE_KEY] = (profile / profile.sum()).astype(np.float32)
    return registry


def build_reference_graph(adata: AnnData, sample_key: str | None, spatial_key: str) -> None:
    """Join each spot to its 14 nearest by coordinates, whatever the layout, unless it has 14 neighbours already."""
    section_field = SectionField(sample_key)
    if not section_field.is_empty:
        section_field.validate_field(adata)
    sections, key = section_field.sections(adata), f"{NEAREST_14}_connectivities"
    if key not in adata.obsp or not _joins_14_of_a_section(adata.obsp[key], sections):
        logger.info(
            build_graph(adata, spatial_key=spatial_key, sections=sections, key_added=NEAREST_14, layout="irregular")
        )


def _joins_14_of_a_section(graph: Any, sections: np.ndarray) -> bool:
    """Tell whether the graph is whole: after spots were taken out, or for other sections, it is not."""
    edges = sp.coo_matrix(graph)
    n_neighbors = np.bincount(edges.row, minlength=len(sections))
    return bool((n_neighbors == 14).all() and (sections[edges.row] == sections[edges.col]).all())


def empty_history() -> dict[str, pd.DataFrame]:
    """Return what scvi-tools adds the losses of further training to; without it, it would keep none."""
    epochs = pd.RangeIndex(0, name="epoch")
    return {name: pd.DataFrame({name: []}, index=epochs, dtype=object) for name in ("train_loss", "validation_loss")}


def _refuse_other_genes(genes: pd.Index, adata: AnnData, gene_symbols: str | None) -> None:
    """Raise if `adata` has too few of the genes, before anything is written to it."""
    match_genes(genes, gene_names(adata, gene_symbols))


class ReferenceMixin(BaseModelClass):
    """The published model, for :class:`sagefm.SAGEFM`."""

    published_architecture = staticmethod(published_architecture)
    published_training = staticmethod(published_training)

    @classmethod
    def from_reference_checkpoint(
        cls,
        pt_path: str | Path,
        gene_names: str | Path | Sequence[str],
        adata: AnnData,
        *,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        gene_symbols: str | None = None,
    ) -> Self:
        """Load the weights published with the SAGE-FM paper, or others of that kind, and set `adata` up for them.

        The network is the paper's: graph convolutions on raw log counts over a spot and its 14 nearest spots by
        coordinates. That graph is built with squidpy, for each section apart, and written to
        `adata.obsp["spatial_knn14_connectivities"]`, unless one with 14 neighbours for every spot is there; another
        graph in `obsp` stays as it is. Any widths and any number of convolutions, two or more, load. Weights are read
        as plain tensors: code in the file is not run.

        Parameters
        ----------
        pt_path
            Torch file with `model_state_dict`, holding `conv1.lin.weight`, `conv1.bias`, ..., `fc_gene.weight` and
            `fc_gene.bias`. `hidden_channels`, where it stands beside that, must be the widths of the convolutions;
            optimizer states are ignored.
        gene_names
            Names of the checkpoint's genes in its order: a `.npy` file, a text file with one name a line, or a
            sequence.
        adata
            Section or sections to use the model on. Genes are matched by name; one that `adata` lacks is a column of
            zeros, as in the paper, and is reported in the log.
        layer, sample_key, spatial_key, gene_symbols
            As in :meth:`setup_anndata`.

        Returns
        -------
        SAGEFM
            A trained model on `adata`: embed, impute, score, save, or train further.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, holds code, or is no such checkpoint; if the gene list has another length; or if
            `adata` has too few of the genes.

        Examples
        --------
        >>> import sagefm, torch
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> weights = {"conv1.lin.weight": torch.rand(8, 200), "conv1.bias": torch.rand(8)}
        >>> weights |= {"conv2.lin.weight": torch.rand(4, 8), "conv2.bias": torch.rand(4)}
        >>> weights |= {"fc_gene.weight": torch.rand(200, 4), "fc_gene.bias": torch.rand(200)}
        >>> path = getfixture("tmp_path") / "checkpoint.pt"
        >>> torch.save({"model_state_dict": weights, "hidden_channels": [8, 4]}, path)
        >>> model = sagefm.SAGEFM.from_reference_checkpoint(path, adata.var_names, adata)
        >>> model.get_latent_representation().shape == (adata.n_obs, 4)
        True
        """
        genes, weights = read_gene_names(gene_names), read_checkpoint(pt_path)
        widths = checked_widths(weights, genes)
        _refuse_other_genes(genes, adata, gene_symbols)
        build_reference_graph(adata, sample_key, spatial_key)
        setup = {"layer": layer, "sample_key": sample_key, "spatial_key": spatial_key, "gene_symbols": gene_symbols}
        cls._set_up_for(adata, genes, neighbors_key=NEAREST_14, **setup)
        architecture = {**published_architecture(), "n_hidden": tuple(widths[1:-1]), "n_latent": widths[-1]}
        model = cls(adata, **architecture)
        model.module.load_state_dict(module_state(weights), strict=False)
        model.is_trained_, model.history_ = True, empty_history()
        return model

    @classmethod
    def _set_up_for(cls, adata: AnnData, genes: pd.Index, **setup: Any) -> None:
        """Register `adata` under the genes of a checkpoint, with normalising constants of its own."""
        cls.setup_anndata(adata, **setup)
        registry = cls._get_most_recent_anndata_manager(adata, required=True).registry
        other = registry_with_genes(registry, genes, gene_names(adata, setup["gene_symbols"]))
        cls.setup_anndata(adata, source_registry=other, **setup)
