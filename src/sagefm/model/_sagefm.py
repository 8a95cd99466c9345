"""SAGEFM: set up, train, embed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.pretty  # noqa: F401 -- scvi-tools' view_anndata_setup uses it without importing it
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from sagefm._errors import refuse_unknown
from sagefm.data import SetupKeys, checked_rows, normalization_of, refuse_mudata, refuse_unknown_arguments
from sagefm.model._base import refuse_other_types, require_training
from sagefm.model._imputation import ImputationMixin
from sagefm.model._influence import InfluenceMixin
from sagefm.model._mudata import MuDataMixin, write_to_mudata
from sagefm.model._pretrained import PretrainedMixin
from sagefm.model._recovery import RecoveryMixin
from sagefm.model._reference import ReferenceMixin
from sagefm.model._train import TrainMixin
from sagefm.model.perturbation import PerturbationMixin
from sagefm.module import MASK_FRACTION, MaskedCenterModule, MaskedCenterPlan, OnePass, ego_graphs


class SAGEFM(
    ImputationMixin,
    RecoveryMixin,
    PerturbationMixin,
    InfluenceMixin,
    MuDataMixin,
    PretrainedMixin,
    ReferenceMixin,
    TrainMixin,
):
    r"""Spatial gene-expression foundation model: a spot's masked genes from the spot and its neighbours.

    A graph convolution reads a spot and the mean of its neighbours, dense layers lead to a latent representation, and
    a linear decoder predicts the genes that were masked in the spot (the masked central spot of SAGE-FM,
    arXiv:2601.15504). `conv="gcn"` averages the spot in with its neighbours, as the paper does; `conv="sage"`, the
    default, gives the spot weights of its own. Genes are read and predicted in units of their own section.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData with :meth:`setup_mudata`.
    registry
        In place of `adata`, for training on files: that of a :class:`sagefm.pretraining.Corpus`.
    conv
        `"sage"`: own weights for the spot and for the mean of its neighbours, then dense layers. `"gcn"`: the spot
        averaged in with its neighbours, in every layer.
    n_hidden
        Width of the hidden layers, or one width for each of them.
    n_latent
        Size of the latent representation.
    n_layers
        Number of layers up to and including the latent representation; follows from `n_hidden` where that lists widths.
    dropout_rate
        Share of hidden units dropped in training.
    mask_fraction
        Probability with which each gene is masked, drawn afresh at every step; the spots of a batch share the mask.
    normalization
        `"size"`: `log1p` of counts scaled to the median depth, with the library size estimated from unmasked genes
        only. `"none"`: `log1p` of raw counts, as in the paper.
    gene_likelihood
        `"normal"`: squared error of what the network reads of a gene: its standardised value with `scale_genes`, else
        the log scale. With `normalization="size"`, spots weigh by the square root of their library sizes.
    scale_genes
        Whether genes are read and predicted by their mean and standard deviation within each section, the latter
        enlarged for genes that hardly vary. It takes out what patients, chemistry and depth shift and stretch. A masked
        or missing gene then stands at its mean.

    Raises
    ------
    ValueError
        If an argument is outside its range, or `adata` has not been set up.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> model = sagefm.SAGEFM(adata, n_latent=16)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.get_latent_representation().shape == (adata.n_obs, 16)
    True
    """

    _module_cls = MaskedCenterModule
    _training_plan_cls = MaskedCenterPlan

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        conv: Literal["sage", "gcn"] = "sage",
        n_hidden: int | Sequence[int] = 256,
        n_latent: int = 20,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        mask_fraction: float = MASK_FRACTION,
        normalization: Literal["size", "none"] = "size",
        gene_likelihood: Literal["normal"] = "normal",
        scale_genes: bool = True,
    ) -> None:
        super().__init__(adata, registry)
        refuse_unknown("conv", conv, ("sage", "gcn"))
        refuse_unknown("normalization", normalization, ("size", "none"))
        refuse_unknown("gene_likelihood", gene_likelihood, ("normal",))
        _refuse_outside("mask_fraction", mask_fraction, 0, 1)
        _refuse_outside("dropout_rate", dropout_rate, -1e-9, 1)
        hidden = [int(n_hidden)] * (n_layers - 1) if isinstance(n_hidden, int | np.integer) else list(n_hidden)
        widths = [len(self.genes), *hidden, n_latent]
        if len(widths) < 3 or min(widths) < 1:
            raise ValueError(f"The network needs at least one hidden layer, and positive widths; found {widths[1:]}.")
        self.module = MaskedCenterModule(
            normalization_of(self.registry_, normalization, scale_genes=scale_genes),
            widths,
            conv=conv,
            dropout_rate=dropout_rate,
            mask_fraction=mask_fraction,
        )
        self._model_summary_string = (
            f"SAGEFM with {len(self.genes)} genes, conv={conv!r}, hidden layers {hidden}, n_latent={n_latent}, "
            f"normalization={normalization!r}, {sum(p.numel() for p in self.module.parameters()):,} parameters"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        neighbors_key: str = "spatial",
        gene_symbols: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register raw counts and the neighbour graph.

        The graph is `adata.obsp[f"{neighbors_key}_connectivities"]` as squidpy leaves it. Where it is absent it is
        built with squidpy, for each section apart: two rings on a hexagonal (Visium) or square grid, the 14 nearest
        spots elsewhere. It stays in `obsp`, so AnnData subsets, reorders and concatenates it. Self loops and stored
        zeros are ignored, directed edges are kept, and an isolated spot sees itself.

        Parameters
        ----------
        adata
            Spots by genes.
        layer
            Layer that holds raw counts; `X` by default. Sparse or dense; `X` may be backed by a file.
        sample_key
            Column of `obs` that tells sections apart. The network never sees it.
        spatial_key
            Key in `obsm` of the coordinates, read only to build a graph.
        neighbors_key
            Prefix of the graph's key in `obsp`.
        gene_symbols
            Column of `var` with the gene names; `var_names` by default.
        **kwargs
            For scvi-tools' own use when a model is loaded.

        Raises
        ------
        KeyError
            If a key is not there; the message lists those that are.
        ValueError
            If counts are negative, NaN or infinite, a spot has none, names stand twice, an edge joins two sections, or
            the graph is empty, weighted or cannot be built.

        Warns
        -----
        UserWarning
            If counts are not whole numbers.

        Examples
        --------
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)
        >>> sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
        >>> "spatial_connectivities" in adata.obsp
        True
        """
        refuse_other_types(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        refuse_mudata(adata)
        refuse_unknown_arguments(kwargs)
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        manager = AnnDataManager(keys.registered_fields(), setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        key_added: str | None = "X_sagefm",
    ) -> np.ndarray:
        """Return the latent representation of spots, and write it to `adata.obsm[key_added]`.

        Parameters
        ----------
        adata
            Spots to embed; the AnnData of the model by default. Its genes are found by name, in any order. A spot is
            embedded with the neighbours that `adata` holds: to embed a part of a section as it is in the whole, pass
            the whole and `indices`.
        indices
            Spots to embed, as positions or as a boolean array; all by default.
        batch_size
            Number of spots that are dense at one time; 512 by default. It does not change the result.
        key_added
            Key in `obsm`; rows of spots that were not asked for are NaN there. None writes nothing. A view of
            an AnnData becomes one of its own, as wherever one writes to a view; what it was taken from stays as it is.

        Returns
        -------
        numpy.ndarray
            Float32, (spots asked, latent).

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `adata` has too few of the model's genes, or does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> latent = model.get_latent_representation()
        >>> bool((adata.obsm["X_sagefm"] == latent).all())
        True
        """
        require_training(self)
        section, spots = self._read(adata)
        rows = checked_rows(indices, spots.n_obs)
        latent = OnePass(self.module, spots, batch_size).latent(rows).float().cpu().numpy()
        if key_added is not None:
            written = np.full((spots.n_obs, latent.shape[1]), np.nan, dtype=np.float32)
            written[rows] = latent
            section.obsm[key_added] = written
            if isinstance(whole := self.adata if adata is None else adata, MuData):
                write_to_mudata(whole, section, key_added)
        return latent

    def to_pyg(self, indices: Sequence[int] | np.ndarray | None = None, adata: AnnData | None = None) -> list[Any]:
        """Return ego graphs for PyTorch Geometric: each spot with its neighbours, every pair joined.

        Parameters
        ----------
        indices
            Centres, as positions or as a boolean array; all by default.
        adata
            Spots to take; the AnnData of the model by default.

        Returns
        -------
        list of torch_geometric.data.Data
            For each centre `x`, (1 + neighbours, genes), what the network reads, the centre first; `edge_index`,
            complete and without self loops, but one for an isolated spot; and `center`, its position in `adata`.
            `model.module.encoder.on_graph(data.x, data.edge_index)[0]` is the latent representation of the centre.

        Raises
        ------
        ValueError, IndexError
            If `indices` are no spots, or `adata` does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> data = sagefm.SAGEFM(adata).to_pyg([0])[0]
        >>> data.num_edges == data.num_nodes * (data.num_nodes - 1)
        True
        """
        spots = self._read(adata)[1]
        return ego_graphs(self.module, spots, checked_rows(indices, spots.n_obs))

    def save(self, dir_path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save the model to a folder, to be read by :meth:`load`; see :meth:`scvi.model.base.BaseModelClass.save`.

        Parameters
        ----------
        dir_path
            The folder.
        *args, **kwargs
            The other arguments of scvi-tools' `save`.
        """
        super().save(str(Path(dir_path).expanduser()), *args, **kwargs)

    @classmethod
    def load(cls, dir_path: str | Path, *args: Any, **kwargs: Any) -> SAGEFM:
        """Load a model that `save` wrote; see :meth:`scvi.model.base.BaseModelClass.load`.

        Genes are matched by name, so the new AnnData may have them in another order or lack some. The file is read with
        `pickle`: load only files you trust.

        Parameters
        ----------
        dir_path
            The folder.
        *args, **kwargs
            The AnnData to use the model on, which is set up as the first one was, and the other arguments of
            scvi-tools' `load`.

        Returns
        -------
        SAGEFM
            The model, on the new AnnData.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        ValueError
            If the AnnData has too few of the model's genes, or does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> import scvi
        >>> model.save(getfixture("tmp_path") / "model")
        >>> scvi.settings.verbosity = "WARNING"  # else its log says where the file is
        >>> sagefm.SAGEFM.load(getfixture("tmp_path") / "model", adata).is_trained
        True
        >>> scvi.settings.verbosity = "INFO"
        """
        dir_path = Path(dir_path).expanduser()
        file = dir_path / f"{kwargs.get('prefix') or ''}model.pt"
        if not file.exists() and not kwargs.get("backup_url"):
            raise FileNotFoundError(
                f"{file} is not there. `load` reads what `model.save` wrote; a folder of `save_pretrained` is read by "
                "`SAGEFM.from_pretrained`."
            )
        with warnings.catch_warnings():
            # scvi-tools goes by position and warns of every other order; here names decide.
            warnings.filterwarnings("ignore", message="`var_names` for the loaded `model` does not match")
            return super().load(str(dir_path), *args, **kwargs)

    def __repr__(self) -> str:
        status = "trained" if self.is_trained_ else "untrained"
        return f"{self._model_summary_string}, {status}"


def _refuse_outside(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name}={value!r} must lie between {max(low, 0):g} and {high:g}.")
