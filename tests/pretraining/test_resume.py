"""Checkpoints to resume from: a resumed run ends with the weights of an uninterrupted one, bit for bit."""

import shutil

import anndata as ad
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from sagefm.pretraining import Corpus, ResumePoint


class Killed(Exception):
    pass


class KillAt(Callback):
    """Stop training at a step, as a killed process would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(("every", "killed_at"), [(4, 11), (5, 6), (1, 17), (13, 30)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_run_resumes_to_the_same_weights(fit, assert_same_weights, tmp_path, every, killed_at, num_workers):
    data = {"num_workers": num_workers}
    model, whole = fit(data)
    assert model.trainer.global_step > killed_at
    file = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        fit(data, callbacks=[ResumePoint(file, every), KillAt(killed_at)])
    torch.manual_seed(987)
    resumed, weights = fit(data, seed=5, ckpt_path=file)
    assert resumed.trainer.global_step == model.trainer.global_step
    assert_same_weights(whole, weights)


def test_finished_run_resumes_for_more_epochs(fit, assert_same_weights, tmp_path):
    _, five = fit(max_epochs=5)
    file = tmp_path / "last.ckpt"
    fit(max_epochs=3, callbacks=[ResumePoint(file)])
    _, more = fit(max_epochs=5, ckpt_path=file)
    assert_same_weights(five, more)


@pytest.fixture
def resume(fit, tmp_path):
    """Train for an epoch, then resume with other arguments."""

    def run(before: dict, data: dict | None = None, **after):
        fit(before, max_epochs=1, callbacks=[ResumePoint(tmp_path / "last.ckpt")])
        return fit(before if data is None else data, max_epochs=2, ckpt_path=tmp_path / "last.ckpt", **after)

    return run


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"batch_size": 32}, "had batch_size=16, this one has 32.* Resume with batch_size=16"),
        ({}, {"n_shards": 1}, "had n_shards=2, this one has 1"),
        ({"n_shards": None}, {"n_shards": None, "num_workers": 2}, "had n_shards=1, this one has 2"),
        ({}, {"validation_size": 0.4}, "was split into training, validation and test sections in another way"),
    ],
)
def test_run_is_not_resumed_with_other_batches(resume, before, after, message):
    with pytest.raises(ValueError, match=message):
        resume(before, after)


def test_another_number_of_workers_resumes_with_the_same_shards(resume):
    model, _ = resume({"num_workers": 2, "n_shards": None}, {"num_workers": 1, "n_shards": 2})
    assert model.trainer.current_epoch == 2


@pytest.fixture
def copied(corpus_folder, tmp_path):
    """A copy of the folder of the corpus, with new times of change."""
    return shutil.copytree(corpus_folder, tmp_path / "copy", copy_function=shutil.copyfile)


def test_a_corpus_that_was_moved_resumes(resume, copied):
    model, _ = resume({}, corpus=Corpus(copied))
    assert model.trainer.current_epoch == 2


def add(folder):
    shutil.copyfile(folder / "section_1.h5ad", folder / "section_9.h5ad")


def remove(folder):
    (folder / "section_4.h5ad").unlink()


def change(folder):
    section = ad.read_h5ad(folder / "section_4.h5ad")
    section.X[0, 0] += 1
    section.write_h5ad(folder / "section_4.h5ad")


@pytest.mark.parametrize(("alter", "name"), [(add, "section_9"), (remove, "section_4"), (change, "section_4")])
def test_a_corpus_that_changed_is_not_resumed(resume, copied, alter, name):
    alter(copied)
    with pytest.raises(ValueError, match=f"had other sections: .*for example {name!r}; 1 in total.* other batches"):
        resume({}, corpus=Corpus(copied))


def test_sections_in_another_order_read_otherwise_or_with_other_genes_are_not_resumed(resume, corpus, copied):
    for path in copied.iterdir():
        section = ad.read_h5ad(path)
        section.var["symbol"] = section.var_names
        section.write_h5ad(path)
    table = corpus.table[["sample", "path"]]
    with pytest.raises(ValueError, match="had other sections"):
        resume({}, corpus=Corpus(table[::-1]))
    with pytest.raises(ValueError, match="had other sections.* 6 in total"):
        resume({}, corpus=Corpus(copied, gene_symbols="symbol"))
    for genes in (corpus.genes[::-1], corpus.genes[:60]):
        with pytest.raises(ValueError, match="had other genes. This run"):
            resume({}, corpus=Corpus(table, genes=genes))
