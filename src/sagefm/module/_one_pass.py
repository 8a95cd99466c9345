"""One pass over the counts: every spot is transformed once, and neighbourhoods are taken of the short results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from sagefm.data import Mask, SectionUnits, Spots, Units, chunks
from sagefm.module._module import MaskedCenterModule

# Spots that are dense at one time: 512 of 36,601 genes are 75 MB.
BATCH_SIZE = 512


def checked_batch_size(batch_size: int | None) -> int:
    """Return the number of spots that are dense at one time."""
    if batch_size is None:
        return BATCH_SIZE
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number, 1 or more.")
    return int(batch_size)


class Encoded(NamedTuple):
    """Some spots with the network's input and what it made of that.

    Counts, which of them were masked, and the input, each (n, genes); the latent representation, (n, latent); the
    factor that the counts were scaled by, (n, 1); and mean and scale of the genes.
    """

    rows: np.ndarray
    counts: Tensor
    mask: Tensor
    x: Tensor
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
        units: SectionUnits | None = None,
    ) -> None:
        self._module = module.eval()
        self._spots = spots
        self._units = units or spots.units
        self._batch_size = checked_batch_size(batch_size)

    @torch.inference_mode()
    def latent(self, rows: np.ndarray) -> Tensor:
        """Return the latent representation of unmasked spots, (rows, latent)."""
        return torch.cat([self._module.encoder.after_first_layer(hidden) for hidden in self._hidden(rows)])

    @torch.inference_mode()
    def first_layer(self, rows: np.ndarray) -> Tensor:
        """Return what the first convolution makes of unmasked spots, (rows, hidden)."""
        return torch.cat(list(self._hidden(rows)))

    def _hidden(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Yield what the first convolution makes of pieces of `rows`, (n, hidden)."""
        conv, operator = self._module.encoder.conv1, self._spots.mean_operator[rows]
        needed = np.union1d(rows, operator.indices)
        place, operator = np.searchsorted(needed, rows), operator[:, needed]
        one_weight = self._module.encoder.conv == "gcn"
        projections = [conv.project_neighbor] if one_weight else [conv.project_neighbor, conv.project_center]
        projected = self._project(needed, projections)
        neighbor, center = projected[0], projected[-1]
        short = neighbor.cpu().numpy()
        for start in range(0, max(len(rows), 1), self._batch_size):
            piece = slice(start, start + self._batch_size)
            own = torch.from_numpy(place[piece])
            mean = self._tensor(operator[piece] @ short)
            yield self._join(rows[piece], center[own], mean, partial(neighbor.__getitem__, own))

    @torch.inference_mode()
    def masked(self, rows: np.ndarray, mask: Mask) -> Iterator[Encoded]:
        """Yield pieces of `rows`, encoded without the entries of the centres that are in `mask`."""
        for piece, mean in self._with_neighbors(rows):
            yield self.encode(piece, mean, mask[piece])

    @torch.inference_mode()
    def unmasked(self, rows: np.ndarray) -> Iterator[Encoded]:
        """Yield pieces of `rows`, encoded with all their genes."""
        nothing = np.zeros((1, len(self._spots.genes)), dtype=bool)
        for piece, mean in self._with_neighbors(rows):
            yield self.encode(piece, mean, nothing.repeat(len(piece), axis=0))

    @torch.inference_mode()
    def encode(self, rows: np.ndarray, mean: Tensor, mask: np.ndarray) -> Encoded:
        """Encode some spots, given the mean of their neighbours' transforms and their mask, boolean (n, genes)."""
        conv = self._module.encoder.conv1
        counts, masked, units = self._read(rows, mask)
        x, factor = self._module.center_input(counts, masked, units)
        hidden = self._join(rows, conv.project_center(x), mean, partial(conv.project_neighbor, x))
        return Encoded(rows, counts, masked, x, self._module.encoder.after_first_layer(hidden), factor, units)

    @torch.inference_mode()
    def inputs(self, rows: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the network's input for spots with a mask, and where they are masked, each (n, genes)."""
        counts, masked, units = self._read(rows, mask)
        return self._module.center_input(counts, masked, units)[0], masked

    @torch.inference_mode()
    def neighborhood_inputs(self, rows: np.ndarray, mask: Mask | None = None) -> Tensor:
        """Return the standardised mean over each spot's neighbours, (n, genes); zero where there is none.

        The mean of a gene leaves out neighbours whose entry is in `mask`.
        """
        units = self._units.of(rows, self._module.device)
        if mask is None:
            means, n = self._spots.neighborhood_means(rows), self._spots.n_neighbors[rows]
        else:
            means, n = self._spots.neighborhood_means_without(rows, mask)
        return units.standardize(self._tensor(means), self._tensor((n == 0) | self._spots.masked))

    @torch.inference_mode()
    def project_neighbors(self, neighbors: Tensor) -> Tensor:
        """Return the transform of what :meth:`neighborhood_inputs` returns, (n, hidden), for :meth:`encode`."""
        return self._module.encoder.conv1.project_neighbor(neighbors)

    def compact_pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Cut `rows` into pieces of spots that are near one another and so share most of their neighbours."""
        ordered = rows[reverse_cuthill_mckee(self._spots.graph[rows][:, rows])]
        return chunks(ordered, self._batch_size)

    def _read(self, rows: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor, Units]:
        counts = self._tensor(self._spots.counts(rows).toarray())
        return counts, self._tensor(mask | self._spots.masked), self._units.of(rows, self._module.device)

    @torch.inference_mode()
    def _with_neighbors(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield pieces of `rows` with the mean of their neighbours' transforms, (n, hidden)."""
        operator = self._spots.mean_operator[rows]
        needed = np.unique(operator.indices)
        (neighbor,) = self._project(needed, [self._module.encoder.conv1.project_neighbor])
        mean = self._tensor(operator[:, needed] @ neighbor.cpu().numpy())
        for start in range(0, len(rows), self._batch_size):
            piece = slice(start, start + self._batch_size)
            yield rows[piece], mean[piece]

    def _project(self, rows: np.ndarray, projections: Sequence[Callable[[Tensor], Tensor]]) -> list[Tensor]:
        """Return each affine projection of unmasked spots, (rows, hidden).

        Counts are divided by the genes' scales while they are sparse. Subtracting the means is the same for all spots
        of a section, namely the input of a spot without counts, so its projection is added to theirs; no dense array
        is standardised.
        """
        n_genes, width = len(self._spots.genes), self._module.encoder.conv1.out_channels
        results = [torch.empty(len(rows), width, device=self._module.device) for _ in projections]
        dense = np.empty((min(self._batch_size, len(rows)), n_genes), dtype=np.float32)
        for start in range(0, len(rows), self._batch_size):
            piece = slice(start, start + self._batch_size)
            logged = self._units.scale_sparse(rows[piece], self._spots.log(rows[piece]))
            x = self._tensor(logged.toarray(out=dense[: logged.shape[0]]))
            for result, project in zip(results, projections, strict=True):
                result[piece] = project(x)
        if self._module.scale_genes:
            sections, section = np.unique(self._units.section[rows], return_inverse=True)
            nothing = torch.zeros(1, n_genes)
            units, masked = self._units.of_sections(sections), torch.from_numpy(self._spots.masked)
            empty = torch.cat([units.standardize(nothing, masked), nothing]).to(self._module.device)
            for result, project in zip(results, projections, strict=True):
                projected = project(empty)
                result += (projected[:-1] - projected[-1])[section]  # the last row is the bias
        return results

    def _join(self, rows: np.ndarray, center: Tensor, mean: Tensor, own: Callable[[], Tensor]) -> Tensor:
        """Join the parts; an isolated spot takes its `own` transform, made only where there are some, for the mean."""
        n_neighbors = self._tensor(self._spots.n_neighbors[rows])
        if (n_neighbors == 0).any():
            mean = torch.where(n_neighbors > 0, mean, own())
        return self._module.encoder.conv1.combine(center, mean, n_neighbors)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._module.device)
