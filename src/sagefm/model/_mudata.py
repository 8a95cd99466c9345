"""Set up SAGEFM on one modality of a MuData."""

from collections.abc import Mapping
from typing import Any, Literal

from mudata import MuData
from scvi.data import AnnDataManager

from sagefm.data import ModalityField, SetupKeys, refuse_unknown_arguments
from sagefm.model._base import SpotModel


class MuDataMixin(SpotModel):
    """`setup_mudata`, for :class:`sagefm.SAGEFM`."""

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Mapping[str, str],
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        neighbors_key: str = "spatial",
        gene_symbols: str | None = None,
        graph: Literal["auto", "grid", "knn"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Register raw counts and the neighbour graph of one modality.

        The other modalities are neither read nor changed. All keys refer to the modality itself: copy a column that is
        only in `mdata.obs` to the modality with :meth:`mudata.MuData.push_obs`. Every method of the model that accepts
        an AnnData then accepts the MuData, and :meth:`get_latent_representation` writes to `obsm` of both the modality
        and the MuData. As in all scvi-tools models, every spot must be in every modality:
        `mdata[mdata["rna"].obs_names].copy()` removes the spots without RNA.

        Parameters
        ----------
        mdata
            MuData whose modalities are spots by features.
        modalities
            The modality with the counts: `{"layer": "rna"}`.
        layer, sample_key, spatial_key, neighbors_key, gene_symbols, graph
            As in :meth:`setup_anndata`, in that modality.
        **kwargs
            Used by scvi-tools when a model is loaded.

        Raises
        ------
        KeyError
            If the modality or a key does not exist; the message lists those that do.
        ValueError
            If `mdata` is not a MuData, `modalities` is not of that form, a spot is not in every modality, or the
            modality does not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> import mudata
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> mdata = mudata.MuData({"rna": adata, "protein": adata[:, :10].copy()})
        >>> sagefm.SAGEFM.setup_mudata(mdata, modalities={"layer": "rna"})
        >>> model = sagefm.SAGEFM(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> latent = model.get_latent_representation()
        >>> bool((mdata.obsm["X_sagefm"] == mdata["rna"].obsm["X_sagefm"]).all())
        True
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        if not isinstance(mdata, MuData):
            raise ValueError(f"`mdata` must be a MuData; found {type(mdata).__name__}. Use `setup_anndata` instead.")
        refuse_unknown_arguments(kwargs)
        if not isinstance(modalities, Mapping) or set(modalities) != {"layer"}:
            raise ValueError(
                f"modalities={modalities!r} must name the modality with the counts, for example {{'layer': 'rna'}}; "
                f"the MuData has {list(mdata.mod)}."
            )
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        fields = [ModalityField(field, modalities["layer"]) for field in keys.registered_fields(graph)]
        manager = AnnDataManager(fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)
