"""The published SAGE-FM: its architecture, its training, and its checkpoints, read without running what is in them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from sagefm._checkpoint_file import checked_widths, module_state, read_checkpoint, read_gene_names
from sagefm._fields import CountsField, SectionField
from sagefm._genes import gene_names, match_genes
from sagefm._graph import NEAREST_14, build_graph
from sagefm._logging import logger
from sagefm._training import empty_history

if TYPE_CHECKING:
    from typing import Self


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
