"""Batches of spots with the means of their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch.utils.data import Dataset, Subset

from sagefm.data._spots import Spots

NEIGHBORS_KEY, N_NEIGHBORS_KEY, ABSENT_KEY = "neighbors", "n_neighbors", "absent"
UNIT_MEAN_KEY, UNIT_SCALE_KEY = "unit_mean", "unit_scale"


class NeighborhoodDataset(Dataset):
    """Batches of centres and the means of their neighbours; only one batch at a time is dense.

    Parameters
    ----------
    spots
        The spots.
    """

    def __init__(self, spots: Spots) -> None:
        self._spots = spots

    def __len__(self) -> int:
        return self._spots.n_obs

    def __getitem__(self, rows: list[int]) -> dict[str, np.ndarray | torch.Tensor]:
        index = np.atleast_1d(np.asarray(rows))
        batch = {
            REGISTRY_KEYS.X_KEY: self._spots.counts(index).toarray(),
            NEIGHBORS_KEY: self._spots.neighborhood_means(index),
            N_NEIGHBORS_KEY: self._spots.n_neighbors[index],
            ABSENT_KEY: torch.from_numpy(~self._spots.known[None]),
        }
        units = self._spots.units.of(index)
        if units.mean is not None and units.scale is not None:
            batch |= {UNIT_MEAN_KEY: units.mean, UNIT_SCALE_KEY: units.scale}
        return batch

    # scvi-tools' loaders expect an AnnDataManager; all they use of it is `adata.n_obs` and `create_torch_dataset`.
    @property
    def adata(self) -> Spots:
        """The spots, which know their number."""
        return self._spots

    def close(self) -> None:
        """Let go of the spots; there are none from then on."""
        del self._spots

    def create_torch_dataset(self, indices: Sequence[int] | None = None, **kwargs: object) -> Subset:
        """Return the data set of some spots."""
        return Subset(self, range(len(self)) if indices is None else indices)
