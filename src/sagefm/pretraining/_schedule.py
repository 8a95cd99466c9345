"""Which spots make up which batch: a function of the seed, the epoch and the sizes of the sections alone.

So any batch can be made anywhere, at any time, by any process: a resumed run goes on where it stopped, and neither the
number of workers nor that of devices changes what is trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """The batches of one epoch and one shard: sections and rows of the spots, both (batches, spots a batch)."""

    sections: np.ndarray
    rows: np.ndarray


def deal(sizes: np.ndarray, n_shards: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal sections, in random order, to shards; each goes to the shard that has the fewest spots by then."""
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    n_spots = np.zeros(n_shards, dtype=int)
    for section in rng.permutation(len(sizes)):
        fewest = int(n_spots.argmin())
        shards[fewest].append(section)
        n_spots[fewest] += sizes[section]
    return [np.array(shard, dtype=int) for shard in shards]


def batches_per_shard(sizes: np.ndarray, n_shards: int, batch_size: int) -> int:
    """Return how many batches every shard gives in an epoch: as many as the spots make, shared evenly."""
    return max(int(sizes.sum()) // (n_shards * batch_size), 1)


def mix(
    shard: np.ndarray, sizes: np.ndarray, buffer_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return section and row of the spots of a shard, mixed over a window that moves along its sections.

    The spots of the section at place k are spread at random over places k to k + `buffer_size`, so at any time at most
    that many sections are in use, one goes as another comes, and their spots are mixed.
    """
    section = np.repeat(shard, sizes[shard])
    place = np.repeat(np.arange(len(shard)), sizes[shard])
    row = np.concatenate([np.arange(size) for size in sizes[shard]])
    order = np.argsort(place + buffer_size * rng.random(len(place)), kind="stable")
    return section[order], row[order]


def schedule(
    sizes: np.ndarray, *, seed: int, epoch: int, shard: int, n_shards: int, batch_size: int, buffer_size: int
) -> Schedule:
    """Return the batches of one shard in one epoch.

    Every shard gives the same number of batches. One with fewer spots than that takes starts again from its first; of
    one with more, the last are left out, others in every epoch.
    """
    shards = deal(sizes, n_shards, np.random.default_rng([seed, epoch]))
    n_batches = batches_per_shard(sizes, n_shards, batch_size)
    sections, rows = mix(shards[shard], sizes, buffer_size, np.random.default_rng([seed, epoch, shard]))
    shape = (n_batches, batch_size)
    return Schedule(np.resize(sections, shape), np.resize(rows, shape))  # np.resize repeats what is too short
