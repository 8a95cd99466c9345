"""Batches of a corpus: they hold the spots that they name, in bounded memory, and skip what cannot be read."""

from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

import sagefm
from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    of_spots,
    registered_spots,
)
from sagefm.pretraining import Corpus
from sagefm.pretraining._batches import SEED_KEY, BatchOrder, CorpusBatches
from sagefm.pretraining._schedule import Schedule


def small_model(corpus: Corpus) -> sagefm.SAGEFM:
    return sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2)


def batches_of(corpus: Corpus, n_open: int = 6) -> CorpusBatches:
    return CorpusBatches(corpus, small_model(corpus).module.normalization, n_open)


def of_every_spot(batch: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The rows of a table of sections that belong to the spots, (spots, genes)."""
    table, section = (torch.from_numpy(batch[key]) for key in (name, SECTION_KEY))
    return of_spots(table, section).expand(len(section), -1).numpy()


def order_of(corpus: Corpus, sections=None, **changes) -> BatchOrder:
    """The batches of a single device."""
    sections = np.arange(len(corpus)) if sections is None else np.array(sections)
    plan = {"batch_size": 16, "n_shards": 1, "buffer_size": 2, "seed": 0, **changes}
    return BatchOrder(Schedule(sections, corpus.sizes[sections], **plan), rank=0, world_size=1)


def test_few_sections_are_open_and_each_is_read_once_an_epoch(corpus, monkeypatch):
    batches, opened = batches_of(corpus, n_open=2), []
    monkeypatch.setattr(corpus, "open", lambda *args, opening=corpus.open: opened.append(args[0]) or opening(*args))
    for key in order_of(corpus, buffer_size=1):
        batches[key]
    assert batches._open.cache_info().currsize <= 2
    assert sorted(opened) == list(range(6))


def test_batch_has_the_spots_of_its_key(corpus):
    batches, keys = batches_of(corpus), list(order_of(corpus, n_shards=2))
    sections, rows, seed = keys[3]
    batch = batches[keys[3]]
    assert batch[SEED_KEY] == seed and len({key[2] for key in keys}) == len(keys)
    for place, (section, row) in enumerate(zip(sections, rows, strict=True)):
        model = small_model(corpus)
        adata = sagefm.data.read_section(Path(corpus.table["path"][section]), sagefm.data.SetupKeys())
        model._validate_anndata(adata)
        spots = registered_spots(model.get_anndata_manager(adata), model.module.normalization)
        index = np.array([row])
        np.testing.assert_array_equal(batch[REGISTRY_KEYS.X_KEY][place], spots.counts(index).toarray()[0])
        np.testing.assert_allclose(batch[NEIGHBORS_KEY][place], spots.neighborhood_means(index)[0], rtol=1e-6)
        np.testing.assert_array_equal(of_every_spot(batch, ABSENT_KEY)[place], ~spots.known)
        units = spots.units.of(index)
        np.testing.assert_array_equal(of_every_spot(batch, UNIT_MEAN_KEY)[place], units.mean[0])
        np.testing.assert_array_equal(of_every_spot(batch, UNIT_SCALE_KEY)[place], units.scale[0])
        assert batch[N_NEIGHBORS_KEY][place] == spots.n_neighbors[row]


def test_genes_missing_from_a_section_do_not_contribute_to_the_loss(corpus):
    lacking = int(np.flatnonzero(corpus.table["n_genes"] < len(corpus.genes))[0])
    (key, *_) = order_of(corpus, [lacking])
    batch = {name: torch.as_tensor(value) for name, value in batches_of(corpus)[key].items() if name != SEED_KEY}
    (absent,) = batch[ABSENT_KEY]
    assert absent.any() and (batch[REGISTRY_KEYS.X_KEY][:, absent] == 0).all()
    module = small_model(corpus).module
    module(batch)[2].loss.backward()
    assert (module.decoder.weight.grad[absent] == 0).all() and (module.decoder.bias.grad[~absent] != 0).any()


def test_moments_and_panels_are_sent_once_per_section_and_panels_once_if_all_agree(corpus):
    batches = batches_of(corpus)
    lacking = int(np.flatnonzero(corpus.table["n_genes"] < len(corpus.genes))[0])
    others = np.setdiff1d(np.arange(len(corpus)), lacking)[:2]
    for sections, n_panels in ((others, 1), (np.array([*others, lacking]), 2)):
        spots = np.repeat(sections, 8)
        batch = batches[spots, np.arange(len(spots)) % 8, 0]
        assert len(batch[UNIT_MEAN_KEY]) == len(batch[UNIT_SCALE_KEY]) == len(sections)
        assert len(np.unique(batch[ABSENT_KEY], axis=0)) == n_panels
        assert len(batch[ABSENT_KEY]) == (1 if n_panels == 1 else len(sections))


def test_sections_within_one_file_keep_their_own_moments(tmp_path, sections):
    both = ad.concat(sections[:2], keys=["a", "b"], label="sample", index_unique="-")
    both.write_h5ad(tmp_path / "both.h5ad")
    sections[2].write_h5ad(tmp_path / "c.h5ad")
    corpus = Corpus(tmp_path, sample_key="sample")
    batches, rows = batches_of(corpus), np.array([0, 3, both.n_obs - 1])
    number = int(np.flatnonzero(corpus.table["n_spots"] == both.n_obs)[0])
    batch = batches[np.array([1 - number, *[number] * 3]), np.array([5, *rows]), 0]
    expected = batches._open(number).units
    np.testing.assert_array_equal(of_every_spot(batch, UNIT_MEAN_KEY)[1:], expected.mean[expected.section[rows]])
    assert len(batch[UNIT_MEAN_KEY]) == 3


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_file_that_breaks_during_training_is_skipped_or_raises(corpus_folder, tmp_path, on_error, caplog):
    for file in corpus_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    corpus = Corpus(tmp_path, on_error=on_error)
    (tmp_path / "section_1.h5ad").write_bytes(b"no longer a section")
    batches, order = batches_of(corpus), order_of(corpus)
    if on_error == "raise":
        with pytest.raises(ValueError, match="section_1.h5ad has changed since it was indexed"):
            [batches[key] for key in order]
        return
    blank = [of_every_spot(batches[key], ABSENT_KEY).all(axis=1) for key in order]
    assert 0 < np.concatenate(blank).sum() <= corpus.sizes[0]
    assert caplog.text.count("section_1.h5ad in training") == 1


def test_order_continues_from_the_batch_that_training_has_reached(corpus):
    plan = Schedule(np.arange(6), corpus.sizes, batch_size=16, n_shards=2, buffer_size=2, seed=0)
    n_steps = plan.batches_per_shard
    progress = SimpleNamespace(total=SimpleNamespace(processed=n_steps + 2))
    resumed = list(BatchOrder(plan, rank=1, world_size=2, progress=progress))
    assert len(resumed) == n_steps and len(resumed) == len(BatchOrder(plan, 1, 2))
    for (sections, rows, _), step in zip(resumed, range(2, n_steps), strict=False):  # of the second device and epoch
        expected_sections, expected_rows = plan.shard(1, 1)
        np.testing.assert_array_equal(sections, expected_sections[step])
        np.testing.assert_array_equal(rows, expected_rows[step])
    np.testing.assert_array_equal(resumed[-1][1], plan.shard(2, 1)[1][1])


def test_devices_share_the_batches_of_one_device(corpus):
    plan = Schedule(np.arange(6), corpus.sizes, batch_size=8, n_shards=2, buffer_size=2, seed=0)
    one, two = list(BatchOrder(plan, 0, 1)), [list(BatchOrder(plan, rank, 2)) for rank in (0, 1)]
    assert [key[2] for key in one] == [key[2] for keys in zip(*two, strict=True) for key in keys]


def test_more_devices_than_validation_batches_get_the_same_batch(corpus):
    plan = Schedule(np.arange(6), corpus.sizes, batch_size=10_000, n_shards=1, buffer_size=1, seed=0)
    first, *others = (list(BatchOrder(plan, rank, 3)) for rank in range(3))
    assert len(first) == 1
    for keys in others:
        np.testing.assert_array_equal(keys[0][0], first[0][0])
        np.testing.assert_array_equal(keys[0][1], first[0][1])
