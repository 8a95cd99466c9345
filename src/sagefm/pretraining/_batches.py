"""Batches of a corpus in a fixed order, and how a rank, a worker or a resumed run finds its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS
from torch.utils.data import DataLoader, Dataset, Sampler

from sagefm._errors import SECTION_ERRORS
from sagefm._logging import logger
from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    NeighborhoodDataset,
    Normalization,
    Spots,
)
from sagefm.pretraining._corpus import Corpus
from sagefm.pretraining._schedule import Schedule, batches_per_shard, schedule

Batch = dict[str, Any]
SEED_KEY = "seed"


class CorpusBatches(Dataset):
    """Batches of a corpus by epoch and number: `batches[epoch, step]`.

    Parameters
    ----------
    corpus
        Where the sections are.
    sections
        Numbers of the sections to take.
    normalization
        The model's normalisation.
    batch_size, n_shards, buffer_size, seed
        As in :class:`CorpusDataModule`.
    n_held
        Sections that this process holds at most.
    """

    def __init__(
        self,
        corpus: Corpus,
        sections: np.ndarray,
        normalization: Normalization,
        *,
        batch_size: int,
        n_shards: int,
        buffer_size: int,
        seed: int,
        n_held: int,
    ) -> None:
        self.corpus, self.sections, self.normalization = corpus, sections, normalization
        self.n_shards, self.seed, self.n_held = n_shards, seed, n_held
        self._plan = {"batch_size": batch_size, "n_shards": n_shards, "buffer_size": buffer_size, "seed": seed}
        self.n_batches = n_shards * batches_per_shard(corpus.sizes[sections], n_shards, batch_size)

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, step = key
        shard, number = step % self.n_shards, step // self.n_shards
        plan = self._schedules(epoch, shard)
        number %= len(plan.rows)  # where devices outnumber the batches of a validation
        batch = self._filled(self.sections[plan.sections[number]], plan.rows[number])
        # One number fixes the masks and the dropout of the batch.
        batch[SEED_KEY] = int(np.random.SeedSequence([self.seed, epoch, step]).generate_state(1)[0])
        return batch

    def _filled(self, sections: np.ndarray, rows: np.ndarray) -> Batch:
        """Collect the spots; those of an unreadable section stay empty, without any gene, and do not enter the loss."""
        shape = (len(rows), len(self.corpus.genes))
        batch = {
            REGISTRY_KEYS.X_KEY: np.zeros(shape, np.float32),
            NEIGHBORS_KEY: np.zeros(shape, np.float32),
            N_NEIGHBORS_KEY: np.zeros((len(rows), 1), np.float32),
            ABSENT_KEY: np.ones(shape, bool),
        }
        if self.normalization.scale_genes:
            batch |= {UNIT_MEAN_KEY: np.zeros(shape, np.float32), UNIT_SCALE_KEY: np.ones(shape, np.float32)}
        for section in np.unique(sections):
            spots = self._open(int(section))
            places = np.flatnonzero(sections == section)
            if spots is not None:
                for name, values in NeighborhoodDataset(spots)[rows[places].tolist()].items():
                    batch[name][places] = values
        return batch

    # Both caches are made in the process that uses them, a worker's own.
    @cached_property
    def _schedules(self) -> Any:
        plan = self._plan

        @lru_cache(maxsize=self.n_shards)
        def cached(epoch: int, shard: int) -> Schedule:
            return schedule(self.corpus.sizes[self.sections], epoch=epoch, shard=shard, **plan)

        return cached

    @cached_property
    def _open(self) -> Any:
        return lru_cache(maxsize=self.n_held)(self._open_or_skip)

    def _open_or_skip(self, section: int) -> Spots | None:
        try:
            return self.corpus.open(section, self.normalization)
        except SECTION_ERRORS as error:
            if self.corpus.on_error == "raise":
                raise
            logger.warning(f"Skipped {self.corpus.table['path'][section]} in training: {error}")
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_schedules", "_open")}


class StepSampler(Sampler):
    """Epoch and number of the batches of one rank, from the batch that training has come to."""

    def __init__(self, n_batches: int, rank: int, world_size: int, progress: Any = None) -> None:
        self.n_steps, self.rank, self.world_size, self._progress = n_batches // world_size, rank, world_size, progress

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Lightning counts the batches that were trained on, over epochs and restarts.
        done = 0 if self._progress is None else self._progress.total.processed
        for number in range(done, done + self.n_steps):
            epoch, step = divmod(number, self.n_steps)
            yield epoch, self.rank + self.world_size * step


class ResumableLoader(DataLoader):
    """A loader that goes on in the middle of an epoch, as its sampler does; Lightning tells by the methods."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer's own count of batches is enough."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""
