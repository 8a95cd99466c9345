"""Which spots form which batch: determined by the seed, the epoch and the sizes of the sections alone.

Any process can therefore make any batch at any time: a resumed run continues where it stopped, and neither the number
of workers nor the number of devices changes what the model is trained on.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """The batches of every epoch, each shard with the same number of them.

    A shard with too few spots starts again from its first spot; a shard with too many drops its last spots, different
    ones in every epoch.

    Parameters
    ----------
    sections, sizes
        Number of each section in the corpus and its number of spots, (sections,).
    batch_size, n_shards, buffer_size, seed
        As in :class:`sagefm.pretraining.CorpusDataModule`.
    """

    sections: np.ndarray
    sizes: np.ndarray
    batch_size: int
    n_shards: int
    buffer_size: int
    seed: int

    @property
    def batches_per_shard(self) -> int:
        """Number of batches of each shard in an epoch."""
        return max(int(self.sizes.sum()) // (self.n_shards * self.batch_size), 1)

    def shard(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return section and row of the spots of one shard in one epoch, each (batches, batch_size)."""
        shard = assign(self.sizes, self.n_shards, np.random.default_rng([self.seed, epoch]))[number]
        rng = np.random.default_rng([self.seed, epoch, number])
        section, row = shuffle(shard, self.sizes, self.buffer_size, rng)
        shape = (self.batches_per_shard, self.batch_size)
        return np.resize(self.sections[section], shape), np.resize(row, shape)  # np.resize repeats what is too short


def assign(sizes: np.ndarray, n_shards: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Assign sections, in random order, to shards: each to the shard with the fewest spots so far."""
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    n_spots = np.zeros(n_shards, dtype=int)
    for section in rng.permutation(len(sizes)):
        smallest = int(n_spots.argmin())
        shards[smallest].append(section)
        n_spots[smallest] += sizes[section]
    return [np.array(shard, dtype=int) for shard in shards]


def shuffle(
    shard: np.ndarray, sizes: np.ndarray, buffer_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return section and row of the spots of a shard, shuffled within a window that moves along its sections.

    The spots of the k-th section are spread at random over the positions k to k + `buffer_size`. So at most that many
    sections are in use at a time, their spots are mixed, and when one section is used up, the next one enters.
    """
    section = np.repeat(shard, sizes[shard])
    position = np.repeat(np.arange(len(shard)), sizes[shard])
    row = np.concatenate([np.arange(size) for size in sizes[shard]])
    order = np.argsort(position + buffer_size * rng.random(len(position)), kind="stable")
    return section[order], row[order]
