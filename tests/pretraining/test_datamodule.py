"""Batches of a corpus: every spot once, the same whatever reads them, resumable to the bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS

import sagefm
from sagefm.data import ABSENT_KEY, N_NEIGHBORS_KEY, NEIGHBORS_KEY
from sagefm.pretraining import Corpus, CorpusDataModule, ResumePoint, corpus_recovery
from sagefm.pretraining._batches import SEED_KEY, CorpusBatches, StepSampler
from sagefm.pretraining._schedule import deal, mix, schedule

N_GENES = 90
QUIET = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six sections of one tissue, of several sizes; one lacks genes."""
    folder = tmp_path_factory.mktemp("corpus")
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=N_GENES, n_interactions=2, n_sections=6)
    for number, name in enumerate(tissue.obs["sample"].cat.categories):
        section = tissue[tissue.obs["sample"] == name][: 40 + 8 * number]
        section = section[:, :70] if number == 2 else section
        section.copy().write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return Corpus(folder, min_share=0.5)


def batches_of(corpus, **changes):
    model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2)
    plan = {"batch_size": 16, "n_shards": 2, "buffer_size": 2, "seed": 0, "n_held": 6, **changes}
    return CorpusBatches(corpus, np.arange(len(corpus)), model.module.normalization, **plan)


def fit(corpus, *, data=None, seed=0, model=None, callbacks=(), **kwargs):
    """Train a small model, dropout and all; return its weights."""
    scvi.settings.seed = seed
    model = model or sagefm.SAGEFM(registry=corpus.registry, n_hidden=16, n_latent=4)
    data = CorpusDataModule(
        corpus, **{"batch_size": 16, "validation_size": 0.2, "n_shards": 2, "seed": 0, **(data or {})}
    )
    model.train(datamodule=data, callbacks=list(callbacks), **{**QUIET, "max_epochs": 3, **kwargs})
    return model, {name: value.clone() for name, value in model.module.state_dict().items()}


def assert_same(first, second):
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)


def test_an_epoch_shows_every_spot_about_once(corpus):
    shards = [
        schedule(corpus.sizes, seed=0, epoch=0, shard=shard, n_shards=2, batch_size=8, buffer_size=2)
        for shard in (0, 1)
    ]
    assert shards[0].rows.shape == shards[1].rows.shape  # so that no device waits for another
    seen = [spot for plan in shards for spot in zip(plan.sections.ravel(), plan.rows.ravel(), strict=True)]
    assert len(seen) > corpus.n_obs - 2 * 8 - 40 and len(set(seen)) > 0.85 * corpus.n_obs
    assert all(row < corpus.sizes[section] for section, row in seen)


def test_epochs_and_seeds_have_orders_of_their_own(corpus):
    plan = {"shard": 0, "n_shards": 2, "batch_size": 8, "buffer_size": 2}
    first, again = (schedule(corpus.sizes, seed=0, epoch=1, **plan) for _ in range(2))
    np.testing.assert_array_equal(first.rows, again.rows)
    for other in (schedule(corpus.sizes, seed=0, epoch=2, **plan), schedule(corpus.sizes, seed=1, epoch=1, **plan)):
        assert (first.rows != other.rows).any()


def test_sections_are_dealt_evenly_and_once():
    sizes = np.random.default_rng(0).integers(200, 5_000, 40)
    shards = deal(sizes, 4, np.random.default_rng(0))
    assert sorted(np.concatenate(shards)) == list(range(40))
    n_spots = [sizes[shard].sum() for shard in shards]
    assert max(n_spots) - min(n_spots) <= sizes.max()


@pytest.mark.parametrize("buffer_size", [1, 3, 7])
def test_few_sections_are_in_use_at_a_time(buffer_size):
    sizes = np.random.default_rng(0).integers(20, 60, 30)
    section, row = mix(np.arange(30), sizes, buffer_size, np.random.default_rng(0))
    assert len(set(zip(section, row, strict=True))) == sizes.sum()
    first, last = (np.array([f(np.flatnonzero(section == s)) for s in range(30)]) for f in (min, max))
    in_use = [int(((first <= at) & (at <= last)).sum()) for at in range(len(section))]
    assert max(in_use) <= buffer_size
    if buffer_size > 1:
        assert len(set(section[200:232])) > 1


def test_memory_is_bounded_by_the_buffer(corpus, monkeypatch):
    batches = batches_of(corpus, buffer_size=1, n_shards=1, n_held=2)
    opened = []
    monkeypatch.setattr(corpus, "open", lambda *args, opening=corpus.open: opened.append(args[0]) or opening(*args))
    for step in range(len(batches)):
        batches[0, step]
    assert batches._open.cache_info().currsize <= 2
    assert sorted(opened) == list(range(6))  # each section is read once an epoch


def test_a_batch_holds_the_spots_it_names(corpus, folder, spots_of):
    batches = batches_of(corpus)
    batch = batches[1, 3]
    plan = batches._schedules(1, 1)
    model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2)
    for place, (section, row) in enumerate(zip(plan.sections[1], plan.rows[1], strict=True)):
        adata = sagefm.data._reading.read_section(folder / f"section_{section + 1}.h5ad", corpus._keys)
        model._validate_anndata(adata)
        spots = model._spots_of(adata)
        np.testing.assert_array_equal(batch["X"][place], spots.counts(np.array([row])).toarray()[0])
        np.testing.assert_allclose(batch[NEIGHBORS_KEY][place], spots.neighborhood_means(np.array([row]))[0], rtol=1e-6)
        np.testing.assert_array_equal(batch[ABSENT_KEY][place], spots.known)
        assert batch[N_NEIGHBORS_KEY][place] == spots.n_neighbors[row]


def test_genes_that_a_section_lacks_teach_nothing(corpus):
    lacking = int(np.flatnonzero(corpus.table["n_genes"] < len(corpus.genes))[0])
    batches = batches_of(corpus, n_shards=1)
    batches.sections = np.array([lacking])
    batch = {name: torch.as_tensor(value) for name, value in batches[0, 0].items() if name != SEED_KEY}
    assert not batch[ABSENT_KEY].all() and (batch["X"][~batch[ABSENT_KEY]] == 0).all()
    module = sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2).module
    module(batch)[2].loss.backward()
    unknown = torch.as_tensor(~batch[ABSENT_KEY][0])
    assert (module.decoder.weight.grad[unknown] == 0).all() and (module.decoder.bias.grad[~unknown] != 0).any()


def test_the_sampler_goes_on_where_training_stopped():
    class Progress:
        class total:
            processed = 7

    assert list(StepSampler(10, 1, 2)) == [(0, 1), (0, 3), (0, 5), (0, 7), (0, 9)]
    assert list(StepSampler(10, 1, 2, Progress))[:4] == [(1, 5), (1, 7), (1, 9), (2, 1)]


def test_workers_change_nothing(corpus):
    _, here = fit(corpus)
    _, workers = fit(corpus, data={"num_workers": 2})
    assert_same(here, workers)


class Killed(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(("every", "killed_at"), [(4, 11), (5, 6), (1, 17), (13, 30)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_was_killed_resumes_to_the_same_weights(corpus, tmp_path, every, killed_at, num_workers):
    data = {"num_workers": num_workers}
    model, whole = fit(corpus, data=data)
    assert model.trainer.global_step > killed_at
    file = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        fit(corpus, data=data, callbacks=[ResumePoint(file, every), KillAt(killed_at)])
    torch.manual_seed(987)
    resumed, weights = fit(corpus, data=data, seed=5, ckpt_path=file)
    assert resumed.trainer.global_step == model.trainer.global_step
    assert_same(whole, weights)


def test_a_finished_run_resumes_for_more_epochs(corpus, tmp_path):
    _, five = fit(corpus, max_epochs=5)
    file = tmp_path / "last.ckpt"
    fit(corpus, max_epochs=3, callbacks=[ResumePoint(file)])
    _, more = fit(corpus, max_epochs=5, ckpt_path=file)
    assert_same(five, more)


TWO_PROCESSES = """
import sys, warnings, torch, scvi
warnings.simplefilter("ignore")
from pathlib import Path
import sagefm
from sagefm.pretraining import Corpus, CorpusDataModule
torch.set_num_threads(1)
folder, out = sys.argv[1:]
scvi.settings.seed = 0
corpus = Corpus(folder)
model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=16, n_latent=4)
data = CorpusDataModule(corpus, batch_size=8, validation_size=0.2, n_shards=2, seed=0)
quiet = {"enable_progress_bar": False, "early_stopping": False}
model.train(max_epochs=2, datamodule=data, accelerator="cpu", devices=2, strategy="ddp", **quiet)
if model.trainer.is_global_zero:
    torch.save(model.module.state_dict(), out)
"""


def test_two_processes_do_what_one_does_with_twice_the_batch(corpus, folder, tmp_path):
    script, out = tmp_path / "two.py", tmp_path / "two.pt"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, script, folder, out], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    # Without early stopping: two processes may leave a validation batch out, and another epoch be the best.
    _, one = fit(corpus, data={"batch_size": 8}, max_epochs=2, accumulate_grad_batches=2, early_stopping=False)
    two = torch.load(out, weights_only=True)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_the_split_is_by_section_or_by_group(folder):
    table = sagefm.pretraining._table.section_table(folder)
    table["patient"] = ["A", "A", "B", "B", "C", "C"]
    table["split"] = ["train", "test", "train", "validation", "train", "train"]
    corpus = Corpus(table)
    by_patient = CorpusDataModule(corpus, group_key="patient", validation_size=0.3)
    assert len(by_patient.validation_sections) == 2
    assert corpus.table["patient"][by_patient.validation_sections].nunique() == 1
    by_name = CorpusDataModule(corpus, split_key="split")
    assert (list(by_name.validation_sections), list(by_name.test_sections)) == ([3], [1])
    assert list(by_name.train_sections) == [0, 2, 4, 5] and by_name.n_train == corpus.sizes[[0, 2, 4, 5]].sum()
    with pytest.raises(KeyError, match="'donor' is not a column of the table of sections"):
        CorpusDataModule(corpus, group_key="donor")
    with pytest.raises(ValueError, match="The split names"):
        CorpusDataModule(corpus, split_key="patient")


def test_without_validation_sections_every_epoch_is_trained(corpus):
    model, _ = fit(corpus, data={"validation_size": 0})
    assert "validation_loss" not in model.history and len(model.history["train_loss"]) == 3


def test_workers_without_a_section_are_not_started(corpus, caplog):
    fit(corpus, data={"num_workers": 9, "n_shards": None, "validation_size": 0.7}, max_epochs=1)
    n_sections = len(CorpusDataModule(corpus, validation_size=0.7, seed=0).train_sections)
    assert f"Of 9 workers, the training sections keep {n_sections} busy." in caplog.text


def test_numbers_that_do_not_go_together_are_refused(corpus):
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        CorpusDataModule(corpus, batch_size=0)
    with pytest.raises(ValueError, match="together below 1"):
        CorpusDataModule(corpus, validation_size=0.6, test_size=0.5)
    for wrong in ({"num_workers": 2, "n_shards": 3}, {"num_workers": 0, "n_shards": 9}):
        with pytest.raises(ValueError, match="must be a multiple of devices times workers"):
            fit(corpus, data=wrong)


def test_a_model_of_other_genes_is_refused(corpus, trained_model):
    with pytest.raises(ValueError, match=f"corpus has {len(corpus.genes)} genes and the model 150"):
        trained_model.train(datamodule=CorpusDataModule(corpus), max_epochs=1)


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_a_file_that_breaks_in_training_is_skipped_or_stops(folder, tmp_path, on_error, caplog):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    corpus = Corpus(tmp_path, on_error=on_error)
    (tmp_path / "section_1.h5ad").write_bytes(b"no longer a section")
    batches = batches_of(corpus, n_shards=1)
    if on_error == "raise":
        with pytest.raises(ValueError, match="section_1.h5ad has changed since it was indexed"):
            [batches[0, step] for step in range(len(batches))]
        return
    all_known = [batches[0, step][ABSENT_KEY].any(axis=1) for step in range(len(batches))]
    assert 0 < sum((~known).sum() for known in all_known) <= corpus.sizes[0]
    assert caplog.text.count("section_1.h5ad in training") == 1


def test_with_more_devices_than_validation_batches_some_come_twice(corpus):
    batches = batches_of(corpus, n_shards=1, batch_size=10_000)
    assert len(batches) == 1
    for rank in range(3):
        (key,) = StepSampler(3, rank, 3)
        np.testing.assert_array_equal(batches[key][REGISTRY_KEYS.X_KEY], batches[0, 0][REGISTRY_KEYS.X_KEY])


def test_recovery_takes_a_trained_model_of_the_same_genes(corpus, folder):
    with pytest.raises(RuntimeError, match="train"):
        corpus_recovery(sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2), corpus, [0])
    model, _ = fit(corpus, max_epochs=1)
    turned = Corpus(folder, genes=corpus.genes[::-1])
    with pytest.raises(ValueError, match="not the same in the same order"):
        corpus_recovery(model, turned, [0])


def test_a_run_is_not_resumed_with_other_batches(corpus, tmp_path):
    fit(corpus, max_epochs=1, callbacks=[ResumePoint(tmp_path / "last.ckpt")])
    with pytest.raises(ValueError, match="had batch_size=16, and this one has 32.* Resume with batch_size=16"):
        fit(corpus, data={"batch_size": 32}, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
