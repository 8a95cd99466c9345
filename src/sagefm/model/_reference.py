"""The published SAGE-FM: its architecture, its training, and its checkpoints, read without running what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from sagefm._logging import logger
from sagefm.data import NEAREST_14, SetupKeys, build_graph, match_genes, registry_with_genes
from sagefm.data import gene_names as names_of
from sagefm.model._base import SpotModel
from sagefm.model._callbacks import empty_history
from sagefm.module import MASK_FRACTION
from sagefm.weights import checked_widths, module_state, read_checkpoint, read_gene_names


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
        "mask_fraction": MASK_FRACTION,
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


def _build_reference_graph(adata: AnnData, keys: SetupKeys) -> None:
    """Join each spot to its 14 nearest by coordinates, whatever the layout, unless it has 14 neighbours already."""
    field, key = keys.section_field(), f"{NEAREST_14}_connectivities"
    if not field.is_empty:
        field.validate_field(adata)
    sections = field.sections(adata)
    if key not in adata.obsp or not _joins_14_of_a_section(adata.obsp[key], sections):
        where = {"spatial_key": keys.spatial_key, "key_added": NEAREST_14, "layout": "irregular"}
        logger.info(build_graph(adata, sections=sections, **where))


def _joins_14_of_a_section(graph: Any, sections: np.ndarray) -> bool:
    """Tell whether the graph is whole: after spots were taken out, or for other sections, it is not."""
    edges = sp.coo_matrix(graph)
    n_neighbors = np.bincount(edges.row, minlength=len(sections))
    return bool((n_neighbors == 14).all() and (sections[edges.row] == sections[edges.col]).all())


class ReferenceMixin(SpotModel):
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
        widths, section_genes = checked_widths(weights, genes), names_of(adata, gene_symbols)
        match_genes(genes, section_genes)  # raises before anything is written to `adata`
        keys = SetupKeys(layer, sample_key, spatial_key, NEAREST_14, gene_symbols)
        _build_reference_graph(adata, keys)
        # Registered once for normalising constants of its own, then again under the genes of the checkpoint.
        cls.setup_anndata(adata, **vars(keys))
        own = cls._get_most_recent_anndata_manager(adata, required=True).registry
        cls.setup_anndata(adata, source_registry=registry_with_genes(own, genes, section_genes), **vars(keys))
        architecture = {**published_architecture(), "n_hidden": tuple(widths[1:-1]), "n_latent": widths[-1]}
        model = cls(adata, **architecture)
        model.module.load_state_dict(module_state(weights))
        model.is_trained_, model.history_ = True, empty_history()
        return model
