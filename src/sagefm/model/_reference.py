"""The published SAGE-FM: its architecture, its training, and its checkpoints, read without running code in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scvi.data import AnnDataManager

from sagefm.data import NEAREST_14, SetupKeys, match_genes, registry_with_genes
from sagefm.data import gene_names as names_of
from sagefm.model._base import SpotModel
from sagefm.model._pretrained import load_trained
from sagefm.module import MASK_FRACTION
from sagefm.weights import checked_widths, module_state, read_checkpoint, read_gene_names


class ReferenceMixin(SpotModel):
    """The published model, for :class:`sagefm.SAGEFM`."""

    @staticmethod
    def published_architecture() -> dict[str, Any]:
        """Return the arguments of :class:`sagefm.SAGEFM` for the network of the SAGE-FM paper (arXiv:2601.15504).

        Five graph convolutions of 1024, 512, 512, 512 and 1024 units on raw log counts, and a rectified linear decoder.

        Examples
        --------
        >>> sagefm.SAGEFM.published_architecture()["n_hidden"]
        (1024, 512, 512, 512)
        """
        network = {"conv": "gcn", "n_hidden": (1024, 512, 512, 512), "n_latent": 1024, "dropout_rate": 0.0}
        return {**network, "mask_fraction": MASK_FRACTION, "normalization": "none", "scale_genes": False}

    @staticmethod
    def published_training() -> dict[str, Any]:
        """Return the arguments of :meth:`sagefm.SAGEFM.train` for the training of the SAGE-FM paper (arXiv:2601.15504).

        Examples
        --------
        >>> sagefm.SAGEFM.published_training()["plan_kwargs"]["lr"]
        5e-05
        """
        adam = {"lr": 5e-5, "weight_decay": 1e-4, "eps": 1e-8}
        scheduler = {"reduce_lr_on_plateau": True, "lr_factor": 0.9, "lr_patience": 10}
        stopping = {"early_stopping": True, "early_stopping_patience": 10}
        return {
            "batch_size": 64,
            "train_size": 0.8,
            "validation_size": 0.1,
            **stopping,
            "plan_kwargs": adam | scheduler,
        }

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
        """Load the weights published with the SAGE-FM paper, or others in the same format, and set up `adata` for them.

        The network is the paper's: graph convolutions on raw log counts over a spot and its 14 nearest spots by
        coordinates. That graph is built with squidpy, separately for each section, and written to
        `adata.obsp["spatial_knn14_connectivities"]`, unless there is one already in which every spot has 14 neighbours.
        Other graphs in `obsp` are not changed. Any widths and any number of convolutions, two or more, are accepted.
        Weights are read as plain tensors: code in the file is not run.

        Parameters
        ----------
        pt_path
            Torch file with `model_state_dict`, which holds `conv1.lin.weight`, `conv1.bias`, ..., `fc_gene.weight` and
            `fc_gene.bias`. If the file also has `hidden_channels`, these must be the widths of the convolutions;
            optimizer states are ignored.
        gene_names
            Names of the checkpoint's genes in its order: a `.npy` file, a text file with one name per line, or a
            sequence.
        adata
            Section or sections to use the model on. Genes are matched by name. A gene missing from `adata` is a column
            of zeros, as in the paper; the number of such genes is logged.
        layer, sample_key, spatial_key, gene_symbols
            As in :meth:`setup_anndata`.

        Returns
        -------
        SAGEFM
            A trained model on `adata`: embed, impute, score, save, or train further.

        Raises
        ------
        FileNotFoundError
            If a file does not exist.
        ValueError
            If the file is damaged, holds code, or is not such a checkpoint; if the gene list has another length; or if
            `adata` has too few of the genes.

        Examples
        --------
        >>> import torch
        >>> section = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> weights = {"conv1.lin.weight": torch.rand(8, 200), "conv1.bias": torch.rand(8)}
        >>> weights |= {"conv2.lin.weight": torch.rand(4, 8), "conv2.bias": torch.rand(4)}
        >>> weights |= {"fc_gene.weight": torch.rand(200, 4), "fc_gene.bias": torch.rand(200)}
        >>> path = getfixture("tmp_path") / "checkpoint.pt"
        >>> torch.save({"model_state_dict": weights, "hidden_channels": [8, 4]}, path)
        >>> published = sagefm.SAGEFM.from_reference_checkpoint(path, section.var_names, section)
        >>> published.get_latent_representation().shape == (section.n_obs, 4)
        True
        """
        genes, weights = read_gene_names(gene_names), read_checkpoint(pt_path)
        widths = checked_widths(weights, genes)
        match_genes(genes, names_of(adata, gene_symbols))  # raises before anything is written to `adata`
        keys = SetupKeys(layer, sample_key, spatial_key, NEAREST_14, gene_symbols)
        _delete_incomplete_graph(adata, keys)
        # Registered for the constants of its normalisation, then again with the genes of the checkpoint.
        cls.setup_anndata(adata, **vars(keys), graph="knn")
        own = cast(AnnDataManager, cls._get_most_recent_anndata_manager(adata, required=True))
        registry = registry_with_genes(own.registry, genes)
        cls.setup_anndata(adata, source_registry=registry, **vars(keys), graph="knn")
        architecture = {**cls.published_architecture(), "n_hidden": tuple(widths[1:-1]), "n_latent": widths[-1]}
        return load_trained(cls(adata, **architecture), module_state(weights), source=str(pt_path))


def _delete_incomplete_graph(adata: AnnData, keys: SetupKeys) -> None:
    """Delete the graph, to be built again at setup, unless every spot has 14 neighbours in its section.

    It is incomplete after spots were removed, or if it was built for other sections.
    """
    if keys.graph_key not in adata.obsp:
        return
    sections, edges = keys.sections(adata), sp.coo_matrix(adata.obsp[keys.graph_key])
    n_neighbors = np.bincount(edges.row, minlength=adata.n_obs)
    if (n_neighbors != 14).any() or (sections[edges.row] != sections[edges.col]).any():
        del adata.obsp[keys.graph_key]
