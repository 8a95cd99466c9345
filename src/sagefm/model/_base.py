"""Base class of the mixins of SAGEFM: its genes, the spots of an AnnData, and whether it is trained."""

import inspect
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from sagefm.data import Spots, genes_of, registered_adata, registered_spots
from sagefm.module import MaskedCenterModule

_UUID_KEY = "_scvi_uuid"  # in uns, by which scvi-tools finds the setup of an AnnData


class SpotModel(BaseModelClass):
    """Base class of the mixins of :class:`sagefm.SAGEFM`."""

    module: MaskedCenterModule
    weights_source_: str | None = None  # name or path of pretrained weights; an attribute that scvi-tools saves

    @cached_property
    def genes(self) -> pd.Index:
        """Names of the model's genes, in the order of the network's input and output.

        Examples
        --------
        >>> model.genes.equals(adata.var_names)
        True
        """
        return genes_of(self.registry_)

    @property
    def target_depth(self) -> float:
        """Library size to which every spot is scaled: the median over the spots that the model was set up with.

        Examples
        --------
        >>> import numpy as np
        >>> model.target_depth == float(np.median(adata.X.toarray().sum(axis=1)))
        True
        """
        return float(self.module.normalization.target_depth)

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: AnnData | MuData, required: bool = False) -> AnnDataManager | None:
        """Return the setup of this very object; scvi-tools' error for a copy does not say what to call."""
        try:
            return super()._get_most_recent_anndata_manager(adata, required)
        except ValueError as error:
            earlier = cls._setup_adata_manager_store.get(adata.uns.get(_UUID_KEY))
            if earlier is None:
                raise ValueError(f"{error} Call it on the object that you pass to the model, not on a copy.") from error
            raise ValueError(
                f"This {type(adata).__name__} is not the object that was set up, but a copy of it, or the original of "
                f"that copy. Call `{setup_call(cls, earlier.registry)}` on the object that you pass to the model."
            ) from error

    def _read(self, adata: AnnData | MuData | None, masked: np.ndarray | None = None) -> tuple[AnnData, Spots]:
        """Return the AnnData that is read (of a MuData, the modality) and its spots.

        A new AnnData is registered and validated. Genes in `masked`, boolean (genes,), are masked in every spot.
        """
        refuse_other_types(adata)
        refuse_backed_view(adata)
        manager = self.get_anndata_manager(self._validate_anndata(adata), required=True)
        return registered_adata(manager), registered_spots(manager, self.module.normalization, masked)


def require_training(model: BaseModelClass) -> None:
    """Raise unless the model is trained."""
    if not model.is_trained:
        raise RuntimeError("The model is untrained; its results would be noise. Call `model.train()` first.")


def refuse_other_types(adata: object) -> None:
    """Raise unless `adata` is an AnnData, a MuData or None."""
    if not isinstance(adata, AnnData | MuData | None):
        hint = " Read the file first: `scanpy.read_h5ad(path)`." if isinstance(adata, str | Path) else ""
        raise TypeError(f"`adata` must be an AnnData; found {type(adata).__name__}.{hint}")


def refuse_backed_view(adata: AnnData | MuData | None) -> None:
    """Raise for part of a backed AnnData: scvi-tools would copy it, which is possible only to another file."""
    if isinstance(adata, AnnData) and adata.is_view and adata.isbacked:
        raise ValueError(
            "`adata` is part of a backed AnnData (a view of a file). Read this part into memory with "
            "`adata = adata.to_memory()`."
        )


def setup_call(cls: type[BaseModelClass], registry: dict) -> str:
    """Return the code of an earlier setup, with the arguments that are not defaults."""
    name, found = registry["setup_method_name"], registry["setup_args"]
    defaults = inspect.signature(getattr(cls, name)).parameters
    arguments = [f"{key}={value!r}" for key, value in found.items() if value != defaults[key].default]
    return f"{cls.__name__}.{name}({', '.join(['mdata' if name == 'setup_mudata' else 'adata', *arguments])})"
