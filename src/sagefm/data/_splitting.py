"""Split spots for validation: hold out whole sections if there are several, else compact blocks of tissue."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import settings
from scvi.dataloaders import DataSplitter

from sagefm.data._batches import NeighborhoodDataset
from sagefm.data._graph import compact_blocks, spots_adjacent_to
from sagefm.data._normalization import Normalization
from sagefm.data._spots import Spots

SEVERAL_SECTIONS = 3  # with fewer, none is held out as a whole
MAX_BLOCKS, MIN_BLOCK = 3, 50  # the spots around many small blocks would be most of a small section


class SectionSplitter(DataSplitter):
    """Data splitter of scvi-tools that keeps neighbours together.

    With three sections or more, whole sections are held out. With one or two, up to three compact blocks of each are,
    and the spots that have a held-out spot among their neighbours are left out of training as well: no count of a
    validation spot is ever an input or a target of a training step. The left-out spots belong to no set. Only the
    section's mean and scale of each gene, by which the input is standardised, are estimated from all its spots.

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
        self.n_spots, self.n_validation = spots.n_obs, self.n_val
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
    """Return disjoint sets of positions, each of about its share of the spots."""
    names, sizes = np.unique(spots.sections, return_counts=True)
    if len(names) >= SEVERAL_SECTIONS:
        groups = whole_groups(names, sizes, shares, rng)
        return [np.flatnonzero(np.isin(spots.sections, held_out)) for held_out in groups]
    blocks = [_blocks_of(spots, np.flatnonzero(spots.sections == name), shares, rng) for name in names]
    return [np.sort(np.concatenate(parts)) for parts in zip(*blocks, strict=True)]


def whole_groups(
    groups: np.ndarray, sizes: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """For each share, hold out groups in random order until they have enough spots; keep at least one group.

    A group may appear several times in `groups`; its number of spots is the sum of its `sizes`.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    n_spots = np.bincount(group_of, weights=sizes)
    order = rng.permutation(len(names))
    start, held_out = 0, []
    for share in shares:
        n_needed = round(share * float(n_spots.sum()))
        n_groups = int(np.searchsorted(np.cumsum(n_spots[order[start:]]), n_needed)) + 1 if n_needed else 0
        stop = min(start + n_groups, len(names) - 1)
        held_out.append(names[order[start:stop]])
        start = stop
    return held_out


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
