r"""What the network predicts when genes are set to other values: the exact fast path.

A gene is one coordinate of the network's input, so setting it moves the first convolution's output of spot :math:`i`
by a number that depends on the spot times one column of weights. Only what comes after the first convolution is
computed again, and only the genes asked for are decoded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sagefm.data import Spots, chunks
from sagefm.model.perturbation._levels import Levels
from sagefm.module import BATCH_SIZE, MaskedCenterModule, OnePass

Where = Literal["neighbors", "self", "both"]

# Spots that go through the tail of the network at one time: few enough for what they make to stay in the cache.
_PIECE = 128
_BLOCK = 8  # targets that are hidden at one time


class Expression:
    """Log-scale values of some genes in all spots, (spots, genes), sparse, and a column at a time dense.

    Parameters
    ----------
    spots
        Where the counts come from.
    genes
        Positions of the genes in the model's order, ascending.
    """

    def __init__(self, spots: Spots, genes: np.ndarray) -> None:
        pieces = [spots.log(piece)[:, genes] for piece in chunks(np.arange(spots.n_obs), BATCH_SIZE)]
        self._values = sp.csc_matrix(sp.vstack(pieces, format="csc"), dtype=np.float32)
        self.genes = genes

    def places(self, genes: np.ndarray | int) -> np.ndarray:
        """Return where `genes` stand among the genes held."""
        return np.searchsorted(self.genes, genes)

    def column(self, gene: int) -> np.ndarray:
        """Return one gene in every spot, (spots,)."""
        values, place = np.zeros(self._values.shape[0], dtype=np.float32), int(self.places(gene))
        stored = slice(self._values.indptr[place], self._values.indptr[place + 1])
        values[self._values.indices[stored]] = self._values.data[stored]
        return values

    def columns(self, genes: np.ndarray) -> np.ndarray:
        """Return some genes in every spot, (spots, genes)."""
        return np.stack([self.column(gene) for gene in genes], axis=1)


@dataclass(frozen=True)
class Readout:
    """What is read of the predictions: the mean over the `parts` (positions of genes) of each target."""

    parts: list[np.ndarray]

    @cached_property
    def genes(self) -> np.ndarray:
        """All parts, each once."""
        return np.unique(np.concatenate(self.parts))

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Return what turns predictions of `genes` into targets, (genes, targets); None where each is one gene."""
        genes = self.genes
        if len(self.parts) == len(genes) and all(
            len(part) == 1 and part[0] == gene for part, gene in zip(self.parts, genes, strict=True)
        ):
            return None
        weights = np.zeros((len(genes), len(self.parts)), dtype=np.float32)
        for target, part in enumerate(self.parts):
            weights[np.searchsorted(genes, part), target] = 1 / len(part)
        return weights


class _Hiding(NamedTuple):
    """A block of targets to hide, whose first stands at `first`.

    What every row shows of their genes, (rows, genes), in the units of the network; which of these belong to each
    target, and with what weight, each (targets, genes); and the genes with their weight columns.
    """

    first: int
    shown: np.ndarray
    member: np.ndarray
    weights: Tensor
    genes: Tensor
    directions: Tensor


class Counterfactual:
    """Predictions for some spots with genes set to other values there, in their neighbours, or in both.

    Library sizes stay as measured: moving one gene scales no other. An isolated spot has no neighbours to perturb, and
    stands in for them where the spot itself is perturbed.

    Parameters
    ----------
    module
        The network, taken in evaluation mode.
    spots
        Where the counts and the graph come from.
    rows
        Spots to predict.
    where
        Where a perturbed gene is set: in the neighbours, in the spot itself, or in both.
    mask_targets
        Whether a target is hidden from the spot itself while it is predicted, each target on its own.
    batch_size
        Number of spots whose genes are dense at one time.
    """

    def __init__(
        self,
        module: MaskedCenterModule,
        spots: Spots,
        rows: np.ndarray,
        expression: Expression,
        *,
        where: Where,
        mask_targets: bool,
        batch_size: int | None = None,
    ) -> None:
        self.module, self.rows, self.expression = module.eval(), rows, expression
        self._device = module.device  # scvi-tools looks through all parameters to tell
        self._where, self._mask_targets = where, mask_targets
        self._operator = spots.mean_operator[rows]
        self._hidden = OnePass(module, spots, batch_size).first_layer(rows)
        self._center_share, self._neighbor_share = self._shares(spots.n_neighbors[rows])
        self._columns = self._weight_columns(expression.genes)
        self._units, self._masked = spots.units, spots.masked
        self._isolated = spots.n_neighbors[rows] == 0

    @torch.inference_mode()
    def _shares(self, n_neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how much of a centre's and of a mean's transform enters the convolution, each (rows, 1)."""
        combine = self.module.encoder.conv1.combine
        n = self._tensor(n_neighbors)
        zero = torch.zeros(len(n), self._hidden.shape[1], device=n.device)
        start = combine(zero, zero, n)
        center, neighbor = (combine(zero + 1, zero, n) - start, combine(zero, zero + 1, n) - start)
        return center[:, :1].cpu().numpy(), neighbor[:, :1].cpu().numpy()

    @torch.inference_mode()
    def _weight_columns(self, genes: np.ndarray) -> Tensor:
        """Return what a unit of each gene adds to a centre's and to a mean's transform, (2, genes, hidden)."""
        conv, n_genes = self.module.encoder.conv1, self.module.decoder.out_features
        nothing = torch.zeros(1, n_genes, device=self._device)
        center, neighbor = [], []
        for start in range(0, len(genes), BATCH_SIZE):
            piece = self._tensor(genes[start : start + BATCH_SIZE])
            unit = torch.zeros(len(piece), n_genes, device=self._device)
            unit[torch.arange(len(piece)), piece] = 1
            center.append(conv.project_center(unit) - conv.project_center(nothing))
            neighbor.append(conv.project_neighbor(unit) - conv.project_neighbor(nothing))
        return torch.stack([torch.cat(center), torch.cat(neighbor)])

    def _directions(self, genes: np.ndarray) -> Tensor:
        """Return the weight columns of `genes` for a centre and then for the mean of its neighbours, (2k, hidden)."""
        return self._columns[:, self.expression.places(genes)].flatten(0, 1)

    def unmasked(self, chosen: np.ndarray) -> Counterfactual:
        """Return the counterfactuals of some of the rows, with no target hidden."""
        part = copy.copy(self)
        part._mask_targets = False
        for name in ("rows", "_hidden", "_operator", "_center_share", "_neighbor_share", "_isolated"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def movable(self, source: np.ndarray, levels: Levels) -> bool:
        """Tell whether the section has all parts of a source, and whether the levels differ."""
        return bool(not self._masked[source].any() and np.ptp(self.dose(source, levels)) > 0)

    def dose(self, source: np.ndarray, levels: Levels) -> np.ndarray:
        """Return the mean value of a source, given by its parts, at each level where it is set, (levels,)."""
        return np.mean(
            [levels.on_log_scale(self.expression.column(gene)).mean(axis=0, dtype=np.float64) for gene in source],
            axis=0,
        )

    @torch.inference_mode()
    def responses(self, source: np.ndarray, levels: Levels, readout: Readout) -> Iterator[tuple[slice, Tensor]]:
        """Yield a piece of the rows at a time: which rows, and the predictions, (levels, piece, targets).

        `source` holds the positions of the parts of the perturbed gene or complex.
        """
        moves, directions = self._moves(source, levels)
        hidings = self._hidings(readout) if self._mask_targets else []
        genes = self._tensor(readout.genes)
        for start in range(0, len(self.rows), _PIECE):
            piece = slice(start, start + _PIECE)
            hidden = self._hidden[piece] + self._tensor(moves[:, piece]) @ directions
            predicted = self._decode(hidden, genes, self.rows[piece])
            if readout.weights is not None:
                predicted = predicted @ self._tensor(readout.weights)
            for hiding in hidings:
                self._hide(hiding, hidden, predicted, piece)
            yield piece, predicted

    def _moves(self, source: np.ndarray, levels: Levels) -> tuple[np.ndarray, Tensor]:
        """Return how far each level moves each row along k directions, (levels, rows, k), and these, (k, hidden)."""
        changes: tuple[list, list] = ([], [])
        for gene in source:
            measured = self.expression.column(gene)
            change = (levels.on_log_scale(measured) - measured[:, None]).astype(np.float32)
            units = self._units.of(self.rows, genes=np.array([gene]))
            for moved, moves in zip((change[self.rows], self._operator @ change), changes, strict=True):
                # No edge leaves a section, so the neighbours have its scale, too.
                moves.append(moved if units.scale is None else moved / units.scale.numpy())
        own, nearby = (np.stack(change, axis=2) for change in changes)  # (rows, levels, parts)
        if self._where == "neighbors":
            own = np.zeros_like(own)
        elif self._where == "self":
            nearby = np.zeros_like(nearby)
        nearby = np.where(self._isolated[:, :, None], own, nearby)
        moved = np.concatenate(
            [own * self._center_share[:, :, None], nearby * self._neighbor_share[:, :, None]], axis=2
        )
        return moved.swapaxes(0, 1), self._directions(source)

    def _hidings(self, readout: Readout) -> list[_Hiding]:
        """Cut the targets into blocks, to be hidden a block at a time."""
        starts = range(0, len(readout.parts), _BLOCK)
        return [self._hiding(Readout(readout.parts[start : start + _BLOCK]), start) for start in starts]

    def _hiding(self, readout: Readout, first: int) -> _Hiding:
        genes, weights = readout.genes, readout.weights
        weights = np.eye(len(genes), dtype=np.float32) if weights is None else np.ascontiguousarray(weights.T)
        units, masked = self._units.of(self.rows, genes=genes), torch.from_numpy(self._masked[genes])
        shown = units.standardize(torch.from_numpy(self.expression.columns(genes)[self.rows]), masked).numpy()
        member = (weights > 0).astype(np.float32)
        return _Hiding(first, shown, member, self._tensor(weights), self._tensor(genes), self._directions(genes))

    def _hide(self, hiding: _Hiding, hidden: Tensor, predicted: Tensor, piece: slice) -> None:
        """Put into `predicted`, of one piece of the rows, what is predicted where the targets are hidden.

        That is where the network reads something of them: where zero is read there is nothing to hide.
        """
        shown = hiding.shown[piece]
        row, target = np.nonzero((shown != 0).astype(np.float32) @ hiding.member.T)
        value = shown[row] * hiding.member[target]
        share = (self._center_share[piece], (self._neighbor_share * self._isolated)[piece])
        move = np.concatenate([value * center_or_neighbor[row] for center_or_neighbor in share], axis=1)
        at, which = self._tensor(row), self._tensor(target)
        moved = hidden[:, at] - self._tensor(move) @ hiding.directions
        parts = self._decode(moved, hiding.genes, self.rows[piece][row]) * hiding.weights[which]
        predicted[:, at, which + hiding.first] = parts.sum(dim=2)

    def _decode(self, hidden: Tensor, genes: Tensor, rows: np.ndarray) -> Tensor:
        units = self._units.of(rows, self._device, genes.cpu().numpy())
        return self.module.decode(self.module.encoder.after_first_layer(hidden), units, genes)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def summarize(
    counterfactual: Counterfactual, source: np.ndarray, levels: Levels, parts: Sequence[np.ndarray], groups: np.ndarray
) -> dict[str, np.ndarray]:
    """Sum up the predictions over groups of rows, `groups` (groups, rows) with rows that sum to one.

    Returns ``response`` (levels, groups, targets), means; ``effect`` and ``spread`` (groups, targets), mean and
    standard deviation over the spots of the difference between the last and the first level.
    """
    response = effect = squares = torch.zeros((), dtype=torch.float64)
    for piece, predicted in counterfactual.responses(source, levels, Readout(list(parts))):
        share = torch.from_numpy(groups[:, piece]).to(predicted)
        change = predicted[-1] - predicted[0]
        response = response + (share @ predicted).cpu().double()
        effect = effect + (share @ change).cpu().double()
        squares = squares + (share @ change.square()).cpu().double()
    n = (groups > 0).sum(axis=1, keepdims=True)
    variance = (squares - effect.square()).clamp_min(0).numpy() * n / np.where(n > 1, n - 1, np.nan)
    return {"response": response.numpy(), "effect": effect.numpy(), "spread": np.sqrt(variance)}


def mean_effects(
    counterfactual: Counterfactual, source: np.ndarray, levels: Levels, genes: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return the mean effect of a source on each of `genes`, ascending positions, (groups, genes)."""
    effect = np.zeros((len(groups), len(genes)))
    for piece, predicted in counterfactual.responses(source, levels, Readout([*genes[:, None]])):
        share = torch.from_numpy(groups[:, piece]).to(predicted)
        effect += (share @ (predicted[-1] - predicted[0])).cpu().numpy()
    return effect
