"""Counterfactual predictions: what the network predicts if genes are set to other values.

A gene is one coordinate of the network's input, and the first convolution is linear. Setting a gene therefore moves the
first convolution's output of a spot along one column of weights, by a distance that depends on the spot. Only the
layers after the first are run again, and only the requested genes are decoded. The result is exact. Predictions are
read before negative values are set to zero, which would hide the effects on genes that are predicted to be near zero.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sagefm.data import Spots, Units, chunks
from sagefm.model.perturbation._decoder import GeneDecoder
from sagefm.model.perturbation._levels import Levels
from sagefm.module import BATCH_SIZE, EgoGCNConv, MaskedCenterModule, OnePass

Where = Literal["neighbors", "self", "both"]

# Spots that pass through the layers after the first at one time: few enough for their activations to stay in the cache.
_CHUNK = 256


class Readout(NamedTuple):
    """Genes to predict, as ascending positions, and weights that average them into targets, (genes, targets).

    Without weights each gene is a target.
    """

    genes: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of_targets(cls, parts: Sequence[np.ndarray]) -> Self:
        """Read the mean over the parts of each target."""
        genes = np.unique(np.concatenate(parts))
        weights = np.zeros((len(genes), len(parts)), dtype=np.float32)
        for target, part in enumerate(parts):
            weights[np.searchsorted(genes, part), target] = 1 / len(part)
        return cls(genes, weights)


class _MaskedTarget(NamedTuple):
    """A target to mask, by the weights of its genes, (genes,), with how far masking moves each row.

    `move` (rows, 2 genes) is along the `directions` (2 genes, hidden). `moved`, (rows,), is False where the input of
    all genes is zero, so that masking changes nothing.
    """

    genes: np.ndarray
    weights: Tensor
    decoder: GeneDecoder
    move: Tensor
    directions: Tensor
    moved: np.ndarray


class Counterfactual:
    """Predictions for some spots with genes set to other values there, in their neighbours, or in both.

    Library sizes keep their measured values: setting a gene rescales no other gene. An isolated spot has no neighbours
    to perturb and is its own neighbourhood, which changes where the spot itself is perturbed.

    Parameters
    ----------
    module
        The network; it is put in evaluation mode.
    spots
        Source of the counts and of the graph.
    rows
        Spots to predict.
    genes
        Positions of all genes that are set or masked, ascending.
    where
        Where a perturbed gene is set: in the neighbours, in the spot itself, or in both.
    mask_targets
        Whether each target is masked in the spot, one target at a time, while it is predicted.
    batch_size
        Number of spots whose genes are dense at one time.
    """

    def __init__(
        self,
        module: MaskedCenterModule,
        spots: Spots,
        rows: np.ndarray,
        genes: np.ndarray,
        where: Where,
        mask_targets: bool,
        batch_size: int | None = None,
    ) -> None:
        self.module, self.rows, self.where, self.mask_targets = module.eval(), rows, where, mask_targets
        self.mean_operator = spots.mean_operator[rows]
        self._genes, self._units, self._masked = genes, spots.units, spots.masked
        pieces = [spots.log(piece)[:, genes] for piece in chunks(np.arange(spots.n_obs), BATCH_SIZE)]
        self._logged = sp.vstack(pieces, format="csc", dtype=np.float32)
        self._device = module.device  # scvi-tools goes through all parameters to find it
        self._hidden = OnePass(module, spots, batch_size).first_layer(rows)
        # Weights with which a spot's own input and the mean of its neighbours enter the first convolution, (rows, 2).
        conv, n_neighbors = module.encoder.conv1, spots.n_neighbors[rows]
        if isinstance(conv, EgoGCNConv):
            layers, shares = [conv.lin, conv.lin], np.hstack([np.ones_like(n_neighbors), n_neighbors])
            self._shares = shares / (n_neighbors + 1)
        else:
            layers, self._shares = [conv.lin_r, conv.lin_l], np.ones((len(rows), 2), dtype=np.float32)
        self._columns = torch.stack([layer.weight.detach()[:, self._tensor(genes)].T for layer in layers])
        self._isolated = n_neighbors == 0
        self._is_one_section = len(np.unique(spots.units.section[rows])) == 1

    def expression(self, genes: np.ndarray) -> np.ndarray:
        """Return log-scale values of some genes in all spots, not only in the rows, (spots, genes)."""
        return self._logged[:, np.searchsorted(self._genes, genes)].toarray()

    def unmasked(self, chosen: np.ndarray) -> Self:
        """Return the counterfactuals of some of the rows, without masking of targets."""
        part = copy.copy(self)
        part.mask_targets = False
        for name in ("rows", "mean_operator", "_hidden", "_shares", "_isolated"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def dose(self, source: np.ndarray, levels: Levels) -> np.ndarray:
        """Return the mean value of a source, given by its parts, at each level where it is set, (levels,).

        NaN if the section has no counts of one of the parts.
        """
        if self._masked[source].any():
            return np.full(len(levels.values), np.nan)
        by_gene = [levels.on_log_scale(measured) for measured in self.expression(source).T]
        return np.asarray(np.mean(by_gene, axis=(0, 1), dtype=np.float64))

    @torch.inference_mode()
    def responses(self, source: np.ndarray, levels: Levels, readout: Readout) -> Iterator[tuple[slice, Tensor]]:
        """Yield a piece of the rows at a time: a slice, and the predictions, (levels, piece, targets).

        `source` holds the positions of the parts of the perturbed gene or complex.
        """
        moves, directions = self._moves(source, levels), self._directions(source)
        masked = self._masked_targets(readout) if self.mask_targets else []
        decoder = self._decoder(readout.genes)
        weights = None if readout.weights is None else self._tensor(readout.weights)
        for start in range(0, len(self.rows), _CHUNK):
            piece = slice(start, start + _CHUNK)
            hidden = self._hidden[piece] + self._tensor(moves[:, piece]) @ directions
            if masked and all(target.moved[piece].all() for target in masked):
                yield piece, torch.stack([self._masked_one(target, hidden, piece) for target in masked], dim=2)
                continue
            predicted = decoder(hidden, self._varying_units(self.rows[piece], readout.genes))
            predicted = predicted if weights is None else predicted @ weights
            for number, target in enumerate(masked):
                predicted[:, self._tensor(target.moved[piece]), number] = self._masked_one(target, hidden, piece)
            yield piece, predicted

    @torch.inference_mode()
    def mean_changes(self, source: np.ndarray, levels: Levels, genes: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the mean change of unmasked predictions from the first to the last level, (groups, genes).

        `shares` (groups, rows) are the weights of the rows in each group. The last layer of the encoder and the decoder
        are affine, so that only means over the rows of each section pass through them.
        """
        sections = np.unique(self._units.section[self.rows])
        member = self._units.section[self.rows] == sections[:, None]
        weights = self._tensor((shares[:, None] * member).reshape(-1, len(self.rows)).astype(np.float32))
        moves, directions = self._tensor(self._moves(source, levels.ends)), self._directions(source)
        encoder = self.module.encoder
        low, high = (encoder.before_last_layer(self._hidden + move @ directions) for move in moves)
        means = (weights @ (high - low)).reshape(len(shares), len(sections), -1)
        means = means if encoder.n_layers == 1 else means @ encoder.affine(encoder.n_layers)[0].T
        changes = means @ self.module.decoder.weight[self._tensor(genes)].T
        scale = self._units.of_sections(sections, self._device, genes).scale
        return (changes if scale is None else changes * scale).sum(dim=1).cpu().numpy()

    def _directions(self, genes: np.ndarray) -> Tensor:
        """Return the weights of `genes` in the spot, then in the mean of its neighbours, (2k, hidden)."""
        return self._columns[:, np.searchsorted(self._genes, genes)].flatten(0, 1)

    def _moves(self, source: np.ndarray, levels: Levels) -> np.ndarray:
        """Return how far each level moves each row along the directions of the source, (levels, rows, 2k)."""
        own, nearby = [], []
        for gene, measured in zip(source, self.expression(source).T, strict=True):
            change = (levels.on_log_scale(measured) - measured[:, None]).astype(np.float32)
            scale = self._units.of(np.arange(len(change)), genes=np.array([gene])).scale
            change = change if scale is None else change / scale.numpy()
            own.append(change[self.rows] * (self.where != "neighbors"))
            nearby.append(np.where(self._isolated, own[-1], self.mean_operator @ change * (self.where != "self")))
        moves = np.stack([np.stack(own, axis=2), np.stack(nearby, axis=2)], axis=2)  # (rows, levels, 2, k)
        moves *= self._shares[:, None, :, None]
        return moves.reshape(*moves.shape[:2], -1).swapaxes(0, 1)

    def _masked_targets(self, readout: Readout) -> list[_MaskedTarget]:
        """Return the targets with what it takes to mask each of them separately."""
        genes, weights = readout
        weights = np.eye(len(genes), dtype=np.float32) if weights is None else weights
        units = self._units.of(self.rows, genes=genes)
        logged = torch.from_numpy(self.expression(genes)[self.rows])
        inputs = units.standardize(logged, torch.from_numpy(self._masked[genes])).numpy()
        # The mean of the neighbours is the spot itself where it has none.
        shares = np.where([True, False] | self._isolated, self._shares, 0).astype(np.float32)
        used = weights.T > 0
        return [
            self._masked_target(genes[part], weights[part, number], inputs[:, part], shares)
            for number, part in enumerate(used)
        ]

    def _masked_target(
        self, genes: np.ndarray, weights: np.ndarray, inputs: np.ndarray, shares: np.ndarray
    ) -> _MaskedTarget:
        move = np.hstack([inputs * share[:, None] for share in shares.T])
        return _MaskedTarget(
            genes,
            self._tensor(weights),
            self._decoder(genes),
            self._tensor(move),
            self._directions(genes),
            (inputs != 0).any(axis=1),
        )

    def _masked_one(self, target: _MaskedTarget, hidden: Tensor, piece: slice) -> Tensor:
        """Return predictions of a masked target in the rows of a piece that masking moves, (levels, moved rows)."""
        move, rows = target.move[piece], self.rows[piece]
        moved = target.moved[piece]
        if not moved.all():
            kept = self._tensor(moved)
            hidden, move, rows = hidden[:, kept], move[kept], rows[moved]
        parts = target.decoder(hidden - move @ target.directions, self._varying_units(rows, target.genes))
        return parts[..., 0] if len(target.genes) == 1 else parts @ target.weights

    def _decoder(self, genes: np.ndarray) -> GeneDecoder:
        units = self._units.of(self.rows[:1], self._device, genes) if self._is_one_section else Units()
        return GeneDecoder(self.module, self._tensor(genes), units)

    def _varying_units(self, rows: np.ndarray, genes: np.ndarray) -> Units:
        """Return the units of genes in some spots, unless all rows share them and the decoder includes them."""
        return Units() if self._is_one_section else self._units.of(rows, self._device, genes)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
