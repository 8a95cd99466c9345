"""One modality of a MuData: registered where it lies, and its embedding written to both levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from sagefm.data import ModalityField, SetupKeys, modality, refuse_unknown_arguments
from sagefm.model._base import SpotModel

_ROLE = "layer"  # the argument of `setup_mudata` that names the counts, as scvi-tools' models have it


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
        keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        fields = [ModalityField(field, mod_key) for field in keys.registered_fields()]
        manager = AnnDataManager(fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)


def write_to_mudata(mdata: MuData, section: AnnData, key: str) -> None:
    """Copy `obsm[key]` of a modality to `mdata.obsm`, whose spots may be in another order."""
    values = pd.DataFrame(section.obsm[key], index=section.obs_names)
    mdata.obsm[key] = values.reindex(mdata.obs_names).to_numpy()


def _mod_key(mdata: MuData, modalities: Mapping[str, str]) -> str:
    if not isinstance(modalities, Mapping) or set(modalities) != {_ROLE}:
        raise ValueError(
            f"modalities={modalities!r} must name the modality of the counts, as in {{'layer': 'rna'}}; the MuData has "
            f"{list(mdata.mod)}."
        )
    modality(mdata, modalities[_ROLE])
    return modalities[_ROLE]
