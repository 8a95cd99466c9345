"""Which spots form which batch: every spot about once an epoch, evenly over shards, few sections at a time."""

import numpy as np
import pytest

from sagefm.pretraining._schedule import Schedule, assign, shuffle

SIZES = np.array([40, 48, 56, 61, 61, 61])


def schedule(seed=0):
    return Schedule(np.arange(len(SIZES)), SIZES, batch_size=8, n_shards=2, buffer_size=2, seed=seed)


def test_epoch_has_every_spot_about_once():
    shards = [schedule().shard(0, number) for number in (0, 1)]
    assert shards[0][1].shape == shards[1][1].shape  # so that no device waits for another
    seen = [spot for sections, rows in shards for spot in zip(sections.ravel(), rows.ravel(), strict=True)]
    assert len(seen) > SIZES.sum() - 2 * 8 - 40 and len(set(seen)) > 0.85 * SIZES.sum()
    assert all(row < SIZES[section] for section, row in seen)


def test_order_depends_on_epoch_and_seed_alone():
    (_, rows), (_, again) = schedule().shard(1, 0), schedule().shard(1, 0)
    np.testing.assert_array_equal(rows, again)
    for _, other in (schedule().shard(2, 0), schedule(seed=1).shard(1, 0)):
        assert rows.shape != other.shape or (rows != other).any()


def test_sections_are_numbered_as_in_the_corpus():
    plan = Schedule(np.array([7, 3]), np.array([20, 30]), batch_size=5, n_shards=1, buffer_size=2, seed=0)
    sections, rows = plan.shard(0, 0)
    assert set(sections.ravel()) == {3, 7}
    assert rows[sections == 7].max() < 20 <= rows[sections == 3].max() < 30


def test_sections_are_assigned_evenly_and_once():
    sizes = np.random.default_rng(0).integers(200, 5_000, 40)
    shards = assign(sizes, 4, np.random.default_rng(0))
    assert sorted(np.concatenate(shards)) == list(range(40))
    n_spots = [sizes[shard].sum() for shard in shards]
    assert max(n_spots) - min(n_spots) <= sizes.max()


@pytest.mark.parametrize("buffer_size", [1, 3, 7])
def test_few_sections_are_in_use_at_a_time(buffer_size):
    sizes = np.random.default_rng(0).integers(20, 60, 30)
    section, row = shuffle(np.arange(30), sizes, buffer_size, np.random.default_rng(0))
    assert len(set(zip(section, row, strict=True))) == sizes.sum()
    first, last = (np.array([f(np.flatnonzero(section == s)) for s in range(30)]) for f in (min, max))
    in_use = [int(((first <= at) & (at <= last)).sum()) for at in range(len(section))]
    assert max(in_use) <= buffer_size
    if buffer_size > 1:
        assert len(set(section[200:232])) > 1
