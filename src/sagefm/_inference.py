"""One pass over the counts: every spot is transformed once, and neighbourhoods are taken of the short results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sagefm._data import Spots
from sagefm._module import MaskedCenterModule
from sagefm._units import GeneUnits, Units

# Spots that are dense at one time: 512 of 36,601 genes are 75 MB.
BATCH_SIZE = 512

Masks = Callable[[np.ndarray], np.ndarray]


class Encoded(NamedTuple):
    """Some spots, as the network saw them.

    Counts and which of them were visible, each (n, genes); the latent representation, (n, latent); the factor that the
    counts were scaled by, (n, 1); and the units of the genes.
    """

    rows: np.ndarray
    counts: Tensor
    visible: Tensor
    latent: Tensor
    factor: Tensor
    units: Units


class OnePass:
    """Encode spots of one AnnData with one network.

    The first convolution is linear in its two inputs, so the mean over neighbours of the transformed spots equals the
    transform of their mean. Each spot is therefore multiplied with the big weight matrix once, not once a neighbour.

    Parameters
    ----------
    module
        The network, taken in evaluation mode.
    spots
        Where the counts and the graph come from.
    batch_size
        Number of spots that are dense at one time.
    units
        Units of the genes; those of `spots` by default.
    """

    def __init__(
        self,
        module: MaskedCenterModule,
        spots: Spots,
        batch_size: int | None = None,
        units: GeneUnits | None = None,
    ) -> None:
        self._module = module.eval()
        self._spots = spots
        self._units = units or spots.units
        self._batch_size = batch_size or BATCH_SIZE

    @torch.inference_mode()
    def latent(self, rows: np.ndarray) -> Tensor:
        """Return the latent representation of unmasked spots, (rows, latent)."""
        return self._module.encoder.after_first(self.first_layer(rows))

    @torch.inference_mode()
    def first_layer(self, rows: np.ndarray) -> Tensor:
        """Return what the first convolution makes of unmasked spots, (rows, hidden)."""
        encoder = self._module.encoder
        operator = self._spots.mean_operator[rows]
        needed = np.union1d(rows, operator.indices)
        centers, neighbors = [], []
        for piece in self._spots.chunks(needed, self._batch_size):
            x = self._inputs(piece)
            neighbors.append(encoder.conv1.project_neighbor(x))
            centers.append(neighbors[-1] if encoder.conv == "gcn" else encoder.conv1.project_center(x))
        center, neighbor = torch.cat(centers), torch.cat(neighbors)
        own = torch.from_numpy(np.searchsorted(needed, rows))
        mean = self._mean(operator[:, needed], neighbor)
        return self._join(rows, center[own], mean, partial(neighbor.__getitem__, own))

    @torch.inference_mode()
    def masked(self, rows: np.ndarray, masks: Masks) -> Iterator[Encoded]:
        """Yield spots with the entries that `masks` gives for them, boolean (n, genes), hidden from the centre."""
        conv = self._module.encoder.conv1
        for piece, mean in self._with_neighbors(rows):
            counts = self._tensor(self._spots.counts(piece).toarray())
            visible = self._tensor(~masks(piece) & self._spots.visible)
            units = self._units.of(piece, self._module.device)
            x, factor = self._module.center_input(counts, visible, units)
            hidden = self._join(piece, conv.project_center(x), mean, partial(conv.project_neighbor, x))
            yield Encoded(piece, counts, visible, self._module.encoder.after_first(hidden), factor, units)

    def unmasked(self, rows: np.ndarray) -> Iterator[Encoded]:
        """Yield spots with all their visible genes."""
        nothing = np.zeros((1, len(self._spots.genes)), dtype=bool)
        return self.masked(rows, lambda piece: nothing.repeat(len(piece), axis=0))

    def _with_neighbors(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield pieces of `rows` with the mean of their neighbours' transforms, (n, hidden)."""
        operator = self._spots.mean_operator[rows]
        needed = np.unique(operator.indices)
        project = self._module.encoder.conv1.project_neighbor
        pieces = [project(self._inputs(piece)) for piece in self._spots.chunks(needed, self._batch_size)]
        mean = self._mean(operator[:, needed], torch.cat(pieces)) if pieces else self._no_neighbors(len(rows))
        for start in range(0, len(rows), self._batch_size):
            piece = slice(start, start + self._batch_size)
            yield rows[piece], mean[piece]

    def _no_neighbors(self, n_spots: int) -> Tensor:
        return torch.zeros(n_spots, self._module.encoder.conv1.out_channels, device=self._module.device)

    def _join(self, rows: np.ndarray, center: Tensor, mean: Tensor, own: Callable[[], Tensor]) -> Tensor:
        """Join the parts; an isolated spot takes its `own` transform, made only where there are some, for the mean."""
        n_neighbors = self._tensor(self._spots.n_neighbors[rows])
        if (n_neighbors == 0).any():
            mean = torch.where(n_neighbors > 0, mean, own())
        return self._module.encoder.conv1.combine(center, mean, n_neighbors)

    def _mean(self, operator: object, projected: Tensor) -> Tensor:
        return self._tensor(operator @ projected.float().cpu().numpy())

    def _inputs(self, rows: np.ndarray) -> Tensor:
        return self._spots.inputs(rows, self._units.of(rows)).to(self._module.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._module.device)
