"""Which spots are held out for validation: whole sections where there are several, compact blocks of tissue elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from scvi import settings
from scvi.dataloaders import DataSplitter

from sagefm._data import Spots
from sagefm._graph import compact_blocks, readers_of

# Fewer sections than this are too few to give one away.
SEVERAL_SECTIONS = 3
N_BLOCKS = 3


class SectionSplitter(DataSplitter):
    """Data splitter of scvi-tools that keeps neighbours together.

    With three sections or more, whole sections are held out. With one or two, three compact blocks of each are, and the
    spots that have a held-out spot among their neighbours are left out of training as well: no count of a
    validation spot is ever an input or a target of a training step. The left-out spots belong to no set.

    Parameters
    ----------
    spots
        Spots to split.
    train_size
        Share of the spots to train on, about; what is left is for validation. 0.9 by default.
    external_indexing
        Positions of training, validation and test spots, instead of a split of ours.
    **kwargs
        Passed on to :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(
        self,
        spots: Spots,
        train_size: float | None = None,
        external_indexing: list[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        train_size = 0.9 if train_size is None else train_size
        if not 0 < train_size <= 1:
            raise ValueError(f"train_size={train_size} must be above 0 and at most 1.")
        own = external_indexing is None
        if own:
            rng = np.random.default_rng(settings.seed)
            held_out = held_out_spots(spots, 1 - train_size, rng)
            training = np.setdiff1d(np.arange(spots.n_obs), np.union1d(held_out, readers_of(spots.graph, held_out)))
            neither = np.setdiff1d(np.arange(spots.n_obs), np.union1d(training, held_out))
            external_indexing = [training, held_out, neither]
        super().__init__(spots, external_indexing=external_indexing, **kwargs)
        if own:  # scvi-tools wants every spot in some set, but these see validation spots and must serve for nothing
            self.external_indexing[2] = np.array([], dtype=int)


def held_out_spots(spots: Spots, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return the positions of about `share` of the spots, to validate on."""
    names = np.unique(spots.sections)
    n_spots = round(share * spots.n_obs)
    if n_spots == 0:
        return np.array([], dtype=int)
    if len(names) >= SEVERAL_SECTIONS:
        return np.flatnonzero(np.isin(spots.sections, _some_sections(spots.sections, n_spots, rng)))
    blocks = []
    for name in names:
        rows = np.flatnonzero(spots.sections == name)
        graph = spots.graph[rows][:, rows]
        blocks.append(rows[compact_blocks(graph, round(share * len(rows)), n_blocks=N_BLOCKS, rng=rng)])
    return np.sort(np.concatenate(blocks))


def _some_sections(sections: np.ndarray, n_spots: int, rng: np.random.Generator) -> np.ndarray:
    """Choose sections at random until they hold `n_spots`, but leave at least one."""
    names, sizes = np.unique(sections, return_counts=True)
    order = rng.permutation(len(names))
    n_chosen = int(np.searchsorted(np.cumsum(sizes[order]), n_spots)) + 1
    return names[order[: min(n_chosen, len(names) - 1)]]
