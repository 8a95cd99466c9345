"""Batches of spots with the means of their neighbours."""

from collections.abc import Sequence

import numpy as np
from scvi import REGISTRY_KEYS
from torch.utils.data import Dataset, Subset

from sagefm.data._spots import Spots

NEIGHBORS_KEY, N_NEIGHBORS_KEY = "neighbors", "n_neighbors"
# One row per section of a batch: each spot has the number of its row. A single row is that of all spots.
SECTION_KEY, ABSENT_KEY, UNIT_MEAN_KEY, UNIT_SCALE_KEY = "section", "absent", "unit_mean", "unit_scale"


class NeighborhoodDataset(Dataset):
    """Batches of spots and the means of their neighbours; only one batch at a time is dense.

    scvi-tools' data loaders use it in place of an AnnDataManager.

    Parameters
    ----------
    spots
        The spots.
    """

    def __init__(self, spots: Spots) -> None:
        self._spots: Spots | None = spots

    @property
    def adata(self) -> Spots:
        """The spots, under the name by which scvi-tools looks up their number, `adata.n_obs`."""
        if self._spots is None:
            raise RuntimeError("The counts were released at the end of training; make a new splitter.")
        return self._spots

    def close(self) -> None:
        """Release the spots."""
        self._spots = None

    def __len__(self) -> int:
        return self.adata.n_obs

    def __getitem__(self, rows: list[int]) -> dict[str, np.ndarray]:
        spots, index = self.adata, np.atleast_1d(np.asarray(rows))
        sections, section = np.unique(spots.units.section[index], return_inverse=True)
        batch = {
            REGISTRY_KEYS.X_KEY: spots.counts(index).toarray(),
            NEIGHBORS_KEY: spots.neighborhood_means(index),
            N_NEIGHBORS_KEY: spots.n_neighbors[index],
            SECTION_KEY: section,
            ABSENT_KEY: ~spots.known[None],
        }
        if spots.units.mean is not None and spots.units.scale is not None:
            batch |= {UNIT_MEAN_KEY: spots.units.mean[sections], UNIT_SCALE_KEY: spots.units.scale[sections]}
        return batch

    def create_torch_dataset(self, indices: Sequence[int], **kwargs: object) -> Subset:
        """Return the data set of some spots."""
        return Subset(self, indices)
