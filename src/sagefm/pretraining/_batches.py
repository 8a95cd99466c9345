"""Batches of a corpus, and their order on one device."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS
from torch.utils.data import DataLoader, Dataset, Sampler

from sagefm._logging import logger
from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    NeighborhoodDataset,
    Normalization,
    Spots,
)
from sagefm.pretraining._corpus import Corpus, attempt
from sagefm.pretraining._schedule import Schedule

SEED_KEY = "seed"
Batch = dict[str, np.ndarray]
BatchKey = tuple[np.ndarray, np.ndarray, int]  # section and row of each spot, seed of the masks and the dropout


class BatchOrder(Sampler):
    """Keys of the batches of one device, starting from the batch that training has reached.

    Parameters
    ----------
    schedule
        The batches of all devices.
    rank, world_size
        Number of the device, and number of devices.
    progress
        Lightning's count of the batches trained on, over epochs and restarts; without it, always the first epoch.
    """

    def __init__(self, schedule: Schedule, rank: int, world_size: int, progress: Any = None) -> None:
        self.schedule, self.rank, self.world_size, self._progress = schedule, rank, world_size, progress

    def __len__(self) -> int:
        return max(self.schedule.n_shards * self.schedule.batches_per_shard // self.world_size, 1)

    def __iter__(self) -> Iterator[BatchKey]:
        plan, n_steps = self.schedule, len(self)
        shard = lru_cache(plan.n_shards)(plan.shard)
        done = 0 if self._progress is None else self._progress.total.processed
        for number in range(done, done + n_steps):
            epoch, step = divmod(number, n_steps)
            step = self.rank + self.world_size * step
            sections, rows = shard(epoch, step % plan.n_shards)
            batch = step // plan.n_shards % len(rows)  # repeats if there are more devices than validation batches
            seed = np.random.SeedSequence([plan.seed, epoch, step]).generate_state(1)[0]
            yield sections[batch], rows[batch], int(seed)


class CorpusBatches(Dataset):
    """Batches of a corpus: `batches[sections, rows, seed]`.

    Spots of a section that can no longer be read stay empty, with all genes absent, and do not enter the loss.

    Parameters
    ----------
    corpus
        The sections.
    normalization
        The model's normalisation.
    n_open
        Maximum number of sections that a process keeps in memory.
    """

    def __init__(self, corpus: Corpus, normalization: Normalization, n_open: int) -> None:
        self.corpus, self.normalization, self.n_open = corpus, normalization, n_open

    def __getitem__(self, key: BatchKey) -> dict[str, Any]:
        sections, rows, seed = key
        places = [np.flatnonzero(sections == section) for section in np.unique(sections)]
        parts = [self._of_section(int(sections[part[0]]), rows[part]) for part in places]
        return joined(parts, places) | {SEED_KEY: seed}

    def _of_section(self, section: int, rows: np.ndarray) -> Batch:
        if (spots := self._open(section)) is not None:
            return NeighborhoodDataset(spots)[rows.tolist()]
        shape, row = (len(rows), len(self.corpus.genes)), (1, len(self.corpus.genes))
        batch = {
            REGISTRY_KEYS.X_KEY: np.zeros(shape, np.float32),
            NEIGHBORS_KEY: np.zeros(shape, np.float32),
            N_NEIGHBORS_KEY: np.zeros((len(rows), 1), np.float32),
            SECTION_KEY: np.zeros(len(rows), int),
            ABSENT_KEY: np.ones(row, bool),
        }
        if self.normalization.scale_genes:
            batch |= {UNIT_MEAN_KEY: np.zeros(row, np.float32), UNIT_SCALE_KEY: np.ones(row, np.float32)}
        return batch

    @cached_property
    def _open(self) -> Callable[[int], Spots | None]:
        # Made on first use, in the process that reads: worker processes start with an empty cache.
        return lru_cache(self.n_open)(self._open_or_skip)

    def _open_or_skip(self, section: int) -> Spots | None:
        path = self.corpus.table["path"][section]
        spots = attempt(self.corpus.on_error, path, self.corpus.open, section, self.normalization)
        if isinstance(spots, str):
            logger.warning(f"Skipped {path} in training: {spots}")
            return None
        return spots


def joined(parts: Sequence[Batch], places: Sequence[np.ndarray]) -> Batch:
    """Join the batches of several sections, given the places of their spots in the whole batch."""
    n_sections = [int(part[SECTION_KEY].max()) + 1 for part in parts]
    firsts = np.cumsum([0, *n_sections[:-1]])
    tables = (ABSENT_KEY, UNIT_MEAN_KEY, UNIT_SCALE_KEY)
    batch = {name: _table([part[name] for part in parts], n_sections) for name in tables if name in parts[0]}
    for name in (REGISTRY_KEYS.X_KEY, NEIGHBORS_KEY, N_NEIGHBORS_KEY, SECTION_KEY):
        values = [part[name] for part in parts]
        batch[name] = np.empty((sum(map(len, places)), *values[0].shape[1:]), values[0].dtype)
        for place, value in zip(places, values, strict=True):
            batch[name][place] = value
    for place, first in zip(places, firsts, strict=True):
        batch[SECTION_KEY][place] += first
    return batch


def _table(parts: Sequence[np.ndarray], n_sections: Sequence[int]) -> np.ndarray:
    """Return one row per section, or a single row if all agree."""
    rows = [np.broadcast_to(part, (n, part.shape[1])) for part, n in zip(parts, n_sections, strict=True)]
    table = np.concatenate(rows)
    return table[:1] if (table == table[0]).all() else table


class ResumableLoader(DataLoader):
    """A loader that can start in the middle of an epoch, as its sampler does; Lightning expects these two methods."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer's own count of batches is enough."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
