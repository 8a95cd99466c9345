"""One modality of a MuData: registered where it lies, and its embedding written to both levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, BaseMuDataWrapperClass
from scvi.model.base import BaseModelClass

from sagefm._errors import MissingKeyError
from sagefm._fields import model_fields, refuse_unknown_arguments

_ROLE = "layer"  # the argument of `setup_mudata` that names the counts, as scvi-tools' models have it


class ModalityField(BaseMuDataWrapperClass):
    """A field of AnnData, read from one modality."""

    def __init__(self, field: BaseAnnDataField, mod_key: str) -> None:
        super().__init__(mod_key, mod_required=True)
        self._adata_field = field

    def validate_field(self, mdata: MuData) -> None:
        """Check that the modality is there, and the field in it."""
        self.adata_field.validate_field(self.get_modality(mdata))

    def get_modality(self, mdata: MuData) -> AnnData:
        """Return the modality."""
        if not isinstance(mdata, MuData):
            raise ValueError(
                f"The model was set up with the modality {self.mod_key!r} of a MuData, and this is an AnnData. Wrap "
                f"it: `mudata.MuData({{{self.mod_key!r}: adata}})`."
            )
        return _modality(mdata, str(self.mod_key))


class MuDataMixin(BaseModelClass):
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
        **kwargs: Any,
    ) -> None:
        """Register raw counts and the neighbour graph of one modality.

        The other modalities are neither read nor changed. Everything is looked for in the modality itself: a column
        that stands in `mdata.obs` alone is handed down with :meth:`mudata.MuData.push_obs`. The model then takes the
        MuData wherever it takes an AnnData, and :meth:`get_latent_representation` writes to `obsm` of the modality and
        of the MuData. As for all models of scvi-tools, every spot must be in every modality:
        `mdata[mdata["rna"].obs_names].copy()` leaves out the spots that RNA lacks.

        Parameters
        ----------
        mdata
            Modalities of spots by features.
        modalities
            Which modality has the counts: `{"layer": "rna"}`.
        layer, sample_key, spatial_key, neighbors_key, gene_symbols
            As in :meth:`setup_anndata`, in that modality.
        **kwargs
            For scvi-tools' own use when a model is loaded.

        Raises
        ------
        KeyError
            If the modality or a key is not there; the message lists those that are.
        ValueError
            If `modalities` has another form, a spot is not in every modality, or the modality does not pass the checks
            of :meth:`setup_anndata`.

        Examples
        --------
        >>> import mudata
        >>> import sagefm
        >>> rna = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> mdata = mudata.MuData({"rna": rna, "protein": rna[:, :10].copy()})
        >>> sagefm.SAGEFM.setup_mudata(mdata, modalities={"layer": "rna"})
        >>> model = sagefm.SAGEFM(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> latent = model.get_latent_representation()
        >>> bool((mdata.obsm["X_sagefm"] == mdata["rna"].obsm["X_sagefm"]).all())
        True
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        if not isinstance(mdata, MuData):
            raise ValueError(f"setup_mudata takes a MuData, not {type(mdata).__name__}; see `setup_anndata`.")
        refuse_unknown_arguments(kwargs)
        mod_key = _mod_key(mdata, modalities)
        fields = model_fields(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        wrapped = [ModalityField(field, mod_key) for field in fields]
        manager = AnnDataManager(fields=wrapped, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)


def refuse_mudata(adata: object) -> None:
    """Raise where a MuData came for an AnnData."""
    if isinstance(adata, MuData):
        raise ValueError(
            f"This is a MuData with the modalities {list(adata.mod)}. Use `setup_mudata`, or pass one modality, for "
            f"example `mdata[{next(iter(adata.mod))!r}]`."
        )


def unwrapped(manager: AnnDataManager) -> tuple[AnnData, list[BaseAnnDataField]]:
    """Return the AnnData that the model works on, and its fields."""
    if not isinstance(manager.adata, MuData):
        return manager.adata, manager.fields
    return manager.fields[0].get_modality(manager.adata), [field.adata_field for field in manager.fields]


def write_to_mudata(mdata: MuData, modality: AnnData, key: str) -> None:
    """Copy `modality.obsm[key]` to `mdata.obsm`, whose spots may stand in another order."""
    values = pd.DataFrame(modality.obsm[key], index=modality.obs_names)
    mdata.obsm[key] = values.reindex(mdata.obs_names).to_numpy()


def _mod_key(mdata: MuData, modalities: Mapping[str, str]) -> str:
    if not isinstance(modalities, Mapping) or set(modalities) != {_ROLE}:
        raise ValueError(
            f"modalities={modalities!r} must name the modality of the counts, as in {{'layer': 'rna'}}; the MuData has "
            f"{list(mdata.mod)}."
        )
    _modality(mdata, modalities[_ROLE])
    return modalities[_ROLE]


def _modality(mdata: MuData, name: str) -> AnnData:
    if name not in mdata.mod:
        raise MissingKeyError(f"{name!r} is not a modality of the MuData; there are {list(mdata.mod)}.")
    return mdata.mod[name]
