"""What the parts of SAGEFM share: its genes, the spots of an AnnData, and whether it is trained."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from sagefm.data import Spots, adata_and_fields, genes_of, registered_spots
from sagefm.module import MaskedCenterModule


class SpotModel(BaseModelClass):
    """Base of the mixins of :class:`sagefm.SAGEFM`."""

    module: MaskedCenterModule

    @cached_property
    def genes(self) -> pd.Index:
        """Names of the genes that the model knows, in its order.

        Examples
        --------
        >>> model.genes.equals(adata.var_names)
        True
        """
        return genes_of(self.registry_)

    @property
    def target_depth(self) -> float:
        """Library size that every spot is scaled to: the median of the spots that the model was set up with.

        Examples
        --------
        >>> import numpy as np
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> bool(sagefm.SAGEFM(adata).target_depth == np.median(adata.X.toarray().sum(axis=1)))
        True
        """
        return float(self.module.normalization.target_depth)

    def _read(self, adata: AnnData | MuData | None, masked: np.ndarray | None = None) -> tuple[AnnData, Spots]:
        """Return the AnnData that is read, of a MuData the modality, and its spots.

        A new AnnData is registered and checked. `masked` genes, boolean (genes,), are masked in every spot.
        """
        refuse_other_types(adata)
        manager = self.get_anndata_manager(self._validate_anndata(adata), required=True)
        return adata_and_fields(manager)[0], registered_spots(manager, self.module.normalization, masked)


def require_training(model: BaseModelClass) -> None:
    """Raise unless the model is trained."""
    if not model.is_trained:
        raise RuntimeError("The model is untrained; its results would be noise. Call `model.train()` first.")


def refuse_other_types(adata: object) -> None:
    """Raise unless this is an AnnData, a MuData or None."""
    if not isinstance(adata, AnnData | MuData | None):
        hint = " Read the file first, `scanpy.read_h5ad(path)`." if isinstance(adata, str | Path) else ""
        raise TypeError(f"`adata` is an AnnData; found {type(adata).__name__}.{hint}")
