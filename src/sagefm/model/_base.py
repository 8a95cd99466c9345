"""Base class of the mixins of SAGEFM: its genes, the spots of an AnnData, and whether it is trained."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from sagefm.data import Spots, genes_of, registered_adata, registered_spots
from sagefm.module import MaskedCenterModule


class SpotModel(BaseModelClass):
    """Base class of the mixins of :class:`sagefm.SAGEFM`."""

    module: MaskedCenterModule

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

    def _read(self, adata: AnnData | MuData | None, masked: np.ndarray | None = None) -> tuple[AnnData, Spots]:
        """Return the AnnData that is read (of a MuData, the modality) and its spots.

        A new AnnData is registered and validated. Genes in `masked`, boolean (genes,), are masked in every spot.
        """
        refuse_other_types(adata)
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
