"""Split spots for validation: hold out whole sections if there are several, else compact blocks of tissue."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import settings
from scvi.dataloaders import DataSplitter

from sagefm._logging import logger
from sagefm.data._batches import NeighborhoodDataset
from sagefm.data._graph import compact_blocks, spots_adjacent_to
from sagefm.data._normalization import Normalization
from sagefm.data._spots import Spots

SEVERAL_SECTIONS = 3  # with fewer, none is held out as a whole
TOLERANCE = 0.1  # share of all spots by which held-out sections may exceed the requested share
MAX_BLOCKS, MIN_BLOCK = 3, 50  # the spots around many small blocks would be most of a small section


class SectionSplitter(DataSplitter):
    """Data splitter of scvi-tools that keeps neighbours together.

    With three or more sections, whole sections are held out if some of them add up to about the requested share: to
    at least half of it, and to at most 10 % of all spots more. Otherwise, up to three compact blocks of each section
    are held out, and the spots that have a held-out spot among their neighbours are left out of training as well: no
    count of a validation spot is ever an input or a target of a training step. The left-out spots belong to no set;
    if they are more than 10 % of all spots, the log gives the share that is trained on. Only the section's mean and
    scale of each gene, by which the input is standardised, are estimated from all its spots.

    Parameters
    ----------
    spots
        Spots to split.
    train_size
        Share of the spots to train on, about; 0.9 by default.
    validation_size
        Share of the spots to validate on, about; by default all that are not for training. The rest is for testing.
    external_indexing
        Positions of training, validation and test spots, in place of this split.
    **kwargs
        Passed on to :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(
        self,
        spots: Spots,
        train_size: float | None = None,
        validation_size: float | None = None,
        external_indexing: list[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        test = None
        if external_indexing is None:
            external_indexing, test = _split(spots, _checked_shares(train_size, validation_size))
        super().__init__(NeighborhoodDataset(spots), external_indexing=external_indexing, **kwargs)
        self.n_spots, self.n_validation, self.library_sizes = spots.n_obs, self.n_val, spots.library_sizes()
        if test is not None:
            # scvi-tools requires every spot in some set, but spots with a held-out neighbour must be in none.
            self.external_indexing[2] = test

    def connect(self, normalization: Normalization, genes: pd.Index) -> None:
        """Do nothing: the spots already have the model's normalisation and genes."""

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene over the training spots, each (genes,)."""
        return self.adata_manager.adata.gene_moments(self.external_indexing[0])

    def sample(self, n_spots: int) -> torch.Tensor:
        """Return the network's input for at most `n_spots` random training spots, (spots, genes)."""
        spots, rng = self.adata_manager.adata, np.random.default_rng(settings.seed)
        rows = rng.permutation(self.external_indexing[0])[:n_spots]
        return spots.inputs(rows, spots.units.of(rows))

    def teardown(self, stage: str | None = None) -> None:
        """Release the counts: the model keeps its trainer, and the trainer its data."""
        self.adata_manager.close()


def _split(spots: Spots, shares: tuple[float, float]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the positions for training, for validation and of the rest, and those of the rest that are for testing."""
    validation, test = held_out_spots(spots, shares, np.random.default_rng(settings.seed))
    held_out = np.concatenate([validation, test])
    training = np.setdiff1d(np.arange(spots.n_obs), np.union1d(held_out, spots_adjacent_to(spots.graph, held_out)))
    if len(training) == 0:
        raise ValueError(
            f"None of the {spots.n_obs} spots is left to train on: all are held out or have a held-out spot among "
            "their neighbours. To train on every spot, without validation, pass `train_size=1`."
        )
    if (n_left_out := spots.n_obs - len(training) - len(held_out)) > TOLERANCE * spots.n_obs:
        logger.info(
            f"Training on {len(training) / spots.n_obs:.0%} of the {spots.n_obs} spots: {len(held_out)} are held out, "
            f"and {n_left_out} are left out because they have a held-out spot among their neighbours."
        )
    return [training, validation, np.setdiff1d(np.arange(spots.n_obs), np.union1d(training, validation))], test


def _checked_shares(train_size: float | None, validation_size: float | None) -> tuple[float, float]:
    """Return the shares of the spots for validation and for testing."""
    train_size = 0.9 if train_size is None else train_size
    if not 0 < train_size <= 1:
        raise ValueError(f"train_size={train_size} must be above 0 and at most 1.")
    validation_size = 1 - train_size if validation_size is None else validation_size
    if not 0 <= validation_size <= 1 - train_size + 1e-9:
        raise ValueError(
            f"validation_size={validation_size} must lie between 0 and 1 - train_size = {1 - train_size:g}."
        )
    return validation_size, max(1 - train_size - validation_size, 0)


def held_out_spots(spots: Spots, shares: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Return disjoint sets of positions, each of about its share of the spots: whole sections if any fit, or blocks."""
    names, sizes = np.unique(spots.sections, return_counts=True)
    if len(names) >= SEVERAL_SECTIONS:
        groups = whole_groups(names, sizes, shares, rng)
        sets = [np.flatnonzero(np.isin(spots.sections, held_out)) for held_out in groups]
        if are_near(shares, [len(rows) / spots.n_obs for rows in sets]):
            return sets
    blocks = [_blocks_of(spots, np.flatnonzero(spots.sections == name), shares, rng) for name in names]
    return [np.sort(np.concatenate(parts)) for parts in zip(*blocks, strict=True)]


def are_near(requested: Sequence[float], found: Sequence[float]) -> bool:
    """Whether each share is at least half of what was requested, and all together exceed it by no more than 10 %."""
    rounding = 1e-9
    enough = all(share >= least / 2 - rounding for share, least in zip(found, requested, strict=True))
    return enough and sum(found) <= sum(requested) + TOLERANCE + rounding


def whole_groups(
    groups: np.ndarray, sizes: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """For each share, hold out groups, in random order, until they have enough spots.

    A group may appear several times in `groups`; its number of spots is the sum of its `sizes`. Groups that would
    exceed the share by far are passed over; if all would, the smallest is held out. At least one group is kept, and
    one for each of the following shares if there are enough.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    n_spots = np.bincount(group_of, weights=sizes)
    free, held_out = rng.permutation(len(names)), []
    needed = [round(share * n_spots.sum()) for share in shares]
    n_excess = round(TOLERANCE * n_spots.sum()) / max(np.count_nonzero(needed), 1)
    for number, n_needed in enumerate(needed):
        n_kept = 1 + int(np.count_nonzero(needed[number + 1 :]))
        chosen = _near(n_needed, n_needed + n_excess, free, n_spots, n_kept)
        held_out.append(names[chosen])
        free = free[~np.isin(free, chosen)]
    return held_out


def _near(n_needed: int, n_most: float, free: np.ndarray, n_spots: np.ndarray, n_kept: int) -> np.ndarray:
    """Take groups from `free`, in order, until they have `n_needed` spots, never more than `n_most`; keep `n_kept`."""
    chosen: list[int] = []
    for group in free:
        taken = n_spots[chosen].sum()
        if taken >= n_needed or len(free) - len(chosen) <= n_kept:
            break
        if taken + n_spots[group] <= n_most:
            chosen.append(group)
    if n_needed and not chosen and len(free) > 1:
        chosen = [free[n_spots[free].argmin()]]
    return np.array(chosen, dtype=int)


def _blocks_of(spots: Spots, rows: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """For each share, hold out compact blocks of one section, whose spots are `rows`."""
    held_out, free = [], rows
    for share in shares:
        n_spots = round(share * len(rows))
        n_blocks = min(max(n_spots // MIN_BLOCK, 1), MAX_BLOCKS)
        block = free[compact_blocks(spots.graph[free][:, free], n_spots, n_blocks=n_blocks, rng=rng)]
        held_out.append(block)
        free = np.setdiff1d(free, block)
    return held_out
