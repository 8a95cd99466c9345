"""Encode spots in one pass over the counts: project each spot once, and average the projections over neighbours."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from sagefm.data import Mask, SectionUnits, Spots, Units, chunks
from sagefm.module._module import MaskedCenterModule

BATCH_SIZE = 512  # spots that are dense at one time: with 36,601 genes, 75 MB


def checked_batch_size(batch_size: int | None) -> int:
    """Return the number of spots that are dense at one time."""
    if batch_size is None:
        return BATCH_SIZE
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number, 1 or more.")
    return int(batch_size)


class Encoded(NamedTuple):
    """Some spots with the network's input and latent representation.

    Counts, mask and input, each (n, genes); latent representation, (n, latent); factor that the counts were scaled by,
    (n, 1); mean and scale of the genes.
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

    The first convolution is linear in its two inputs, so the mean of the neighbours' projections equals the projection
    of their mean. Each spot is therefore multiplied by the large weight matrix once, not once per neighbour.

    Parameters
    ----------
    module
        The network; it is put in evaluation mode.
    spots
        Counts and neighbour graph.
    batch_size
        Number of spots that are dense at one time.
    units
        Mean and scale of the genes in each section; those of `spots` by default.
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
        """Return the output of the first convolution for unmasked spots, (rows, hidden)."""
        return torch.cat(list(self._hidden(rows)))

    def _hidden(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Yield the output of the first convolution for pieces of `rows`, (n, hidden)."""
        conv, operator = self._module.encoder.conv1, self._spots.mean_operator[rows]
        needed = np.union1d(rows, operator.indices)
        own, operator = torch.from_numpy(np.searchsorted(needed, rows)), operator[:, needed]
        projections = dict.fromkeys([conv.project_neighbor, conv.project_center])  # those of a GCN are the same
        projected = self._project(needed, list(projections))
        neighbor, center = projected[0], projected[-1]
        on_cpu = neighbor.cpu().numpy()
        for piece in self._pieces(max(len(rows), 1)):
            mean = self._tensor(operator[piece] @ on_cpu)
            yield self._combine(rows[piece], center[own[piece]], mean, partial(neighbor.__getitem__, own[piece]))

    @torch.inference_mode()
    def masked(self, rows: np.ndarray, mask: Mask) -> Iterator[Encoded]:
        """Yield pieces of `rows`, encoded without the entries of the centres that are in `mask`."""
        operator = self._spots.mean_operator[rows]
        needed = np.unique(operator.indices)
        (neighbor,) = self._project(needed, [self._module.encoder.conv1.project_neighbor])
        mean = self._tensor(operator[:, needed] @ neighbor.cpu().numpy())
        for piece in self._pieces(len(rows)):
            yield self.encode(rows[piece], mean[piece], mask[rows[piece]])

    def unmasked(self, rows: np.ndarray) -> Iterator[Encoded]:
        """Yield pieces of `rows`, encoded with all their genes."""
        return self.masked(rows, np.broadcast_to(False, (self._spots.n_obs, len(self._spots.genes))))

    @torch.inference_mode()
    def encode(self, rows: np.ndarray, mean: Tensor, mask: np.ndarray) -> Encoded:
        """Encode spots, given the means of their neighbours' projections, (n, hidden), and a mask, (n, genes)."""
        conv = self._module.encoder.conv1
        counts, masked, units = self._read(rows, mask)
        x, factor = self._module.center_input(counts, masked, units)
        hidden = self._combine(rows, conv.project_center(x), mean, partial(conv.project_neighbor, x))
        return Encoded(rows, counts, masked, x, self._module.encoder.after_first_layer(hidden), factor, units)

    @torch.inference_mode()
    def inputs(self, rows: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the network's input for spots with a mask, and which entries are masked, each (n, genes)."""
        counts, masked, units = self._read(rows, mask)
        return self._module.center_input(counts, masked, units)[0], masked

    @torch.inference_mode()
    def neighborhood_inputs(self, rows: np.ndarray, mask: Mask | None = None) -> Tensor:
        """Return the standardised mean over each spot's neighbours, (n, genes); zero where there are none.

        Entries of neighbours that are in `mask` do not enter the mean of a gene.
        """
        units = self._units.of(rows, self._module.device)
        if mask is None:
            means, n = self._spots.neighborhood_means(rows), self._spots.n_neighbors[rows]
        else:
            means, n = self._spots.neighborhood_means_without(rows, mask)
        return units.standardize(self._tensor(means), self._tensor((n == 0) | self._spots.masked))

    def compact_pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Cut `rows` into pieces of spots that are close together and so share most of their neighbours."""
        ordered = rows[reverse_cuthill_mckee(self._spots.graph[rows][:, rows])]
        return chunks(ordered, self._batch_size)

    def _read(self, rows: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor, Units]:
        counts = self._tensor(self._spots.counts(rows).toarray())
        return counts, self._tensor(mask | self._spots.masked), self._units.of(rows, self._module.device)

    def _project(self, rows: np.ndarray, projections: Sequence[Callable[[Tensor], Tensor]]) -> list[Tensor]:
        """Return each linear projection of unmasked spots, (rows, hidden).

        Log counts are divided by the genes' scales while they are sparse. The rest of the standardisation, subtracting
        the means, is the same for all spots of a section: it is the input of a spot without counts. That input is
        projected once and added, so no dense array is standardised.
        """
        n_genes, width = len(self._spots.genes), self._module.encoder.conv1.out_channels
        results = [torch.empty(len(rows), width, device=self._module.device) for _ in projections]
        dense = np.empty((min(self._batch_size, len(rows)), n_genes), dtype=np.float32)
        for piece in self._pieces(len(rows)):
            logged = self._units.scale_sparse(rows[piece], self._spots.log(rows[piece]))
            x = self._tensor(logged.toarray(out=dense[: logged.shape[0]]))
            for result, project in zip(results, projections, strict=True):
                result[piece] = project(x)
        if self._module.scale_genes:
            sections, section = np.unique(self._units.section[rows], return_inverse=True)
            units = self._units.of_sections(sections, self._module.device)
            empty = units.standardize(
                self._tensor(np.zeros((1, n_genes), np.float32)), self._tensor(self._spots.masked)
            )
            for result, project in zip(results, projections, strict=True):
                result += project(empty)[section]
        return results

    def _combine(self, rows: np.ndarray, center: Tensor, mean: Tensor, own: Callable[[], Tensor]) -> Tensor:
        """Return the output of the convolution; for isolated spots `own()`, computed only if needed, is the mean."""
        n_neighbors = self._tensor(self._spots.n_neighbors[rows])
        if (n_neighbors == 0).any():
            mean = torch.where(n_neighbors > 0, mean, own())
        return self._module.encoder.conv1.combine(center, mean, n_neighbors)

    def _pieces(self, n: int) -> Iterator[slice]:
        return (slice(start, start + self._batch_size) for start in range(0, n, self._batch_size))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._module.device)
