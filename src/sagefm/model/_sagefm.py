"""The model class SAGEFM: set up, create, embed, save and load."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401 -- scvi-tools' view_anndata_setup uses it without importing it
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from sagefm._errors import refuse_unknown
from sagefm._quiet import quiet
from sagefm.data import (
    SetupKeys,
    checked_rows,
    normalization_of,
    refuse_mudata,
    refuse_unknown_arguments,
    refuse_unwritable_key,
)
from sagefm.model._base import refuse_backed_view, refuse_other_types, require_training
from sagefm.model._expression import ExpressionMixin
from sagefm.model._html import described, html_table
from sagefm.model._imputation import ImputationMixin
from sagefm.model._influence import InfluenceMixin
from sagefm.model._mudata import MuDataMixin
from sagefm.model._pretrained import PretrainedMixin
from sagefm.model._recovery import RecoveryMixin
from sagefm.model._reference import ReferenceMixin
from sagefm.model._train import TrainMixin
from sagefm.model.perturbation import PerturbationMixin
from sagefm.module import MASK_FRACTION, MaskedCenterModule, MaskedCenterPlan, OnePass, ego_graphs


class SAGEFM(
    ImputationMixin,
    ExpressionMixin,
    RecoveryMixin,
    PerturbationMixin,
    InfluenceMixin,
    MuDataMixin,
    PretrainedMixin,
    ReferenceMixin,
    TrainMixin,
):
    r"""Foundation model for spatial transcriptomics, trained to predict masked genes of a spot from its surroundings.

    The input of the network is a spot, some of whose genes are masked, and the mean of its neighbours in a spatial
    graph. A graph convolution followed by dense layers maps both to a latent representation, from which a linear
    decoder predicts the masked genes. This is the masked central spot task of SAGE-FM (arXiv:2601.15504). The
    convolution of the paper, which averages the spot with its neighbours, is `conv="gcn"`; the default, `conv="sage"`,
    has separate weights for the spot. By default, genes are standardised within each section.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    registry
        Registry of a :class:`sagefm.pretraining.Corpus`, instead of `adata`, to train on files.
    conv
        Graph convolution. `"sage"`: separate weights for the spot and for the mean of its neighbours, followed by dense
        layers. `"gcn"`: the spot is averaged with its neighbours, in every layer.
    n_hidden
        Number of units of each hidden layer, or a sequence with one number per hidden layer.
    n_latent
        Number of dimensions of the latent representation.
    n_layers
        Number of layers of the encoder, including the one that outputs the latent representation. Ignored if `n_hidden`
        is a sequence.
    dropout_rate
        Probability with which each hidden unit is dropped in training, at least 0 and below 1.
    mask_fraction
        Probability with which each gene is masked in training, between 0 and 1. The mask is redrawn at every step and
        shared by the spots of a batch.
    normalization
        `"size"`: `log1p` of counts scaled to the median library size, where the library size of a spot is estimated
        from its unmasked genes only. `"none"`: `log1p` of raw counts, as in the paper.
    gene_likelihood
        Only `"normal"` is available: squared error on the scale of the network's input, which is standardised with
        `scale_genes` and log-normalised without. With `normalization="size"`, spots are weighted by the square root of
        their library sizes.
    scale_genes
        Whether each gene is standardised by its mean and standard deviation within the section, in the input and in the
        predictions. The standard deviation is increased for genes that hardly vary. This removes shifts and changes of
        scale between patients, chemistries and sequencing depths. A masked or missing gene is then set to its mean.

    Raises
    ------
    ValueError
        If an argument is out of range, or `adata` has not been set up.

    Examples
    --------
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
        gene_likelihood: Literal["normal"] = "normal",  # saved models and cards name it
        scale_genes: bool = True,
    ) -> None:
        super().__init__(adata, registry)
        refuse_unknown("conv", conv, ("sage", "gcn"))
        refuse_unknown("normalization", normalization, ("size", "none"))
        refuse_unknown("gene_likelihood", gene_likelihood, ("normal",))
        if not 0 < mask_fraction < 1:
            raise ValueError(f"mask_fraction={mask_fraction!r} must lie between 0 and 1.")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate={dropout_rate!r} must be at least 0 and below 1.")
        hidden = [int(n_hidden)] * (n_layers - 1) if isinstance(n_hidden, int | np.integer) else list(n_hidden)
        widths = [len(self.genes), *hidden, n_latent]
        if len(widths) < 3 or min(widths) < 1:
            raise ValueError(f"The network needs at least one hidden layer, and positive widths; found {widths[1:]}.")
        normalize = normalization_of(self.registry_, normalization, scale_genes=scale_genes)
        self.module = MaskedCenterModule(
            normalize, widths, conv=conv, dropout_rate=dropout_rate, mask_fraction=mask_fraction
        )
        self._network_summary = (
            f"conv={conv!r}, hidden layers {hidden}, n_latent={n_latent}, normalization={normalization!r}, "
            f"{sum(p.numel() for p in self.module.parameters()):,} parameters"
        )
        self._model_summary_string = f"SAGEFM with {len(self.genes)} genes, {self._network_summary}"
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
        graph: Literal["auto", "grid", "knn"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Register raw counts and the neighbour graph.

        The graph is `adata.obsp[f"{neighbors_key}_connectivities"]`, as written by squidpy. If it does not exist, it is
        built with squidpy within each section: two rings on a hexagonal (Visium) or square grid, the 14 nearest spots
        on any other layout. The graph stays in `obsp`, so it is subset, reordered and concatenated with the AnnData.
        Self-loops and explicit zeros are ignored, directed edges are kept, and an isolated spot is its own
        neighbourhood.

        Parameters
        ----------
        adata
            AnnData of spots by genes.
        layer
            Layer with the raw counts, sparse or dense. Defaults to `X`, which may be backed by a file.
        sample_key
            Column of `obs` that identifies the section of each spot. It is never an input of the network.
        spatial_key
            Key in `obsm` of the coordinates, used only to build a graph: two columns, or for a stack of sections a
            DataFrame with the columns x, y and z.
        neighbors_key
            Prefix of the key of the graph in `obsp`.
        gene_symbols
            Column of `var` with the gene names. Defaults to `var_names`, which also name genes without a value there.
        graph
            Graph to build if there is none. `"grid"`: two rings, and an error for a section without a grid. `"knn"`:
            the 14 nearest spots. `"auto"`: two rings where a grid is found, and the 14 nearest spots elsewhere.
        **kwargs
            Used by scvi-tools when a model is loaded.

        Raises
        ------
        TypeError
            If `adata` is not an AnnData, or an argument does not exist.
        KeyError
            If a key does not exist; the message lists those that do.
        ValueError
            If counts are negative, NaN or infinite; if a spot has no counts; if names are duplicated; if an edge joins
            two sections; or if the graph is empty or weighted, or cannot be built.

        Warns
        -----
        UserWarning
            If counts are not whole numbers; if some features are not genes (`var["feature_types"]`); if many genes have
            no count in a whole section and many in others; if spots are outside the tissue (`obs["in_tissue"]`); if
            edges of a new graph join spots that a column of `obs` assigns to different sections; or if a grid is found
            in some of the sections only.

        Examples
        --------
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)
        >>> sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
        >>> "spatial_connectivities" in adata.obsp
        True
        """
        refuse_other_types(adata)
        refuse_backed_view(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        refuse_mudata(adata)
        refuse_unknown_arguments(kwargs)
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        manager = AnnDataManager(keys.registered_fields(graph), setup_method_args=setup_method_args)
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
            AnnData with the spots to embed. Defaults to the model's AnnData. Genes are matched by name, in any order.
            Spots are embedded with the neighbours that are in `adata`: to embed part of a section with all its
            neighbours, pass the whole section and `indices`.
        indices
            Spots to embed, as positions or as a boolean array. Defaults to all.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512. Results do not depend on it.
        key_added
            Key in `obsm`, where rows of spots that were not requested are NaN. With None, nothing is written. If
            `adata` is a view, writing makes it an actual AnnData, as usual; its parent does not change.

        Returns
        -------
        numpy.ndarray
            Float32, (requested spots, latent dimensions).

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError, IndexError
            If `indices` are not spots, if `adata` has too few of the model's genes, or if it does not pass the checks
            of :meth:`setup_anndata`.

        Examples
        --------
        >>> latent = model.get_latent_representation()
        >>> bool((adata.obsm["X_sagefm"] == latent).all())
        True
        """
        require_training(self)
        refuse_unwritable_key(key_added, "key_added")
        section, spots = self._read(adata)
        rows = checked_rows(indices, spots.n_obs)
        latent = OnePass(self.module, spots, batch_size).latent(rows).float().cpu().numpy()
        if key_added is not None:
            written = np.full((spots.n_obs, latent.shape[1]), np.nan, dtype=np.float32)
            written[rows] = latent
            section.obsm[key_added] = written
            if isinstance(whole := self.adata if adata is None else adata, MuData):
                # Its spots may be in another order.
                whole.obsm[key_added] = pd.DataFrame(written, section.obs_names).reindex(whole.obs_names).to_numpy()
        return latent

    def to_pyg(self, indices: Sequence[int] | np.ndarray | None = None, adata: AnnData | None = None) -> list[Any]:
        """Return ego graphs for PyTorch Geometric: the complete graph on each spot and its neighbours.

        Parameters
        ----------
        indices
            Central spots, as positions or as a boolean array. Defaults to all.
        adata
            AnnData with the spots. Defaults to the model's AnnData.

        Returns
        -------
        list of torch_geometric.data.Data
            One graph per central spot, with `x`, the network's input, (1 + neighbours, genes), central spot first;
            `edge_index`, complete and without self-loops (an isolated spot may have one); and `center`, the position of
            the central spot in `adata`.
            `model.module.encoder.on_graph(data.x, data.edge_index)[0]` is the latent representation of the central
            spot.

        Raises
        ------
        ValueError, IndexError
            If `indices` are not spots, or `adata` does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> data = model.to_pyg([0])[0]
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
            Folder to write.
        *args, **kwargs
            Further arguments of scvi-tools' `save`, for example `overwrite`.

        Examples
        --------
        >>> model.save(getfixture("tmp_path") / "model")
        """
        super().save(str(Path(dir_path).expanduser()), *args, **kwargs)

    @classmethod
    def load(cls, dir_path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """Load a model written by :meth:`save`; see :meth:`scvi.model.base.BaseModelClass.load`.

        Genes are matched by name, so the AnnData may have them in another order or lack some. The file is read with
        `pickle`: load only files that you trust.

        Parameters
        ----------
        dir_path
            Folder to read.
        *args, **kwargs
            The AnnData to use the model on, which is set up as the original one was, and further arguments of
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
        >>> scvi.settings.verbosity = "WARNING"  # do not log the path of the file
        >>> sagefm.SAGEFM.load(getfixture("tmp_path") / "model", adata).is_trained
        True
        >>> scvi.settings.verbosity = "INFO"
        """
        dir_path = Path(dir_path).expanduser()
        file = dir_path / f"{kwargs.get('prefix') or ''}model.pt"
        if not file.exists() and not kwargs.get("backup_url"):
            raise FileNotFoundError(
                f"{file} does not exist. `load` reads a folder written by `model.save`; use `SAGEFM.from_pretrained` "
                "for a folder written by `model.save_pretrained`."
            )
        with quiet(), warnings.catch_warnings():
            # scvi-tools expects genes in the same order and warns otherwise; here they are matched by name.
            warnings.filterwarnings("ignore", message="`var_names` for the loaded `model` does not match")
            return super().load(str(dir_path), *args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._model_summary_string}, {'trained' if self.is_trained_ else 'untrained'}"

    def _repr_html_(self) -> str:
        """Return the summary that notebooks show."""
        return html_table("SAGEFM", {"network": self._network_summary, **described(self)})
