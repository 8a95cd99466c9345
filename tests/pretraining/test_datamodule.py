"""The data module of a corpus: its splits, and the same training for any number of workers and processes."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from sagefm.pretraining import Corpus, CorpusDataModule


def test_number_of_workers_changes_nothing(fit, assert_same_weights):
    _, none = fit()
    _, two = fit({"num_workers": 2})
    assert_same_weights(none, two)


TWO_PROCESSES = """
import sys, warnings, torch, scvi
warnings.simplefilter("ignore")
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


def test_two_processes_do_what_one_does_with_accumulated_gradients(fit, corpus_folder, tmp_path):
    script, out = tmp_path / "two.py", tmp_path / "two.pt"
    script.write_text(TWO_PROCESSES)
    command, environment = [sys.executable, script, corpus_folder, out], {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    # Without early stopping: two processes may drop a validation batch, and then another epoch may be the best.
    _, one = fit({"batch_size": 8}, max_epochs=2, accumulate_grad_batches=2, early_stopping=False)
    two = torch.load(out, weights_only=True)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_split_is_by_section_or_by_group(corpus):
    table = corpus.table[["sample", "path"]].assign(
        patient=["A", "A", "B", "B", "C", "C"], split=["train", "test", "train", "validation", "train", "train"]
    )
    corpus = Corpus(table)
    by_patient = CorpusDataModule(corpus, group_key="patient", validation_size=0.3)
    assert len(by_patient.validation_sections) == 2
    assert corpus.table["patient"][by_patient.validation_sections].nunique() == 1
    by_name = CorpusDataModule(corpus, split_key="split")
    assert (list(by_name.validation_sections), list(by_name.test_sections)) == ([3], [1])
    assert list(by_name.train_sections) == [0, 2, 4, 5]
    assert by_name.n_spots == corpus.sizes[[0, 2, 4, 5]].sum() and by_name.n_validation == corpus.sizes[3]
    with pytest.raises(KeyError, match="'donor' is not a column of the table of sections"):
        CorpusDataModule(corpus, group_key="donor")
    with pytest.raises(ValueError, match="Column 'patient' names the splits"):
        CorpusDataModule(corpus, split_key="patient")


def test_random_split_covers_all_sections_once(corpus):
    data = CorpusDataModule(corpus, validation_size=0.2, test_size=0.2, seed=1)
    parts = [*data.train_sections, *data.validation_sections, *data.test_sections]
    assert sorted(parts) == list(range(6)) and len(data.validation_sections) and len(data.test_sections)


def test_shares_that_whole_sections_cannot_meet_are_warned_about(corpus):
    table = corpus.table[["sample", "path"]].assign(patient=["A", "A", "A", "B", "B", "B"])
    three = Corpus(table[:3])
    assert three.sizes.tolist() == [40, 48, 56]
    expected = "of the spots: 0.28 instead of 0.1 for validation; 0.72 are left for training"
    with pytest.warns(UserWarning, match=f"^Whole sections do not add up .*{expected}"):
        data = CorpusDataModule(three)
    assert list(data.validation_sections) == [0]
    with pytest.warns(UserWarning, match="^Whole groups of 'patient' do not .*: 0.44 instead of 0.1 .* 0.56 are left"):
        CorpusDataModule(Corpus(table), group_key="patient")
    with pytest.warns(UserWarning, match="0.44 instead of 0.3 for validation and 0 instead of 0.3 for test;"):
        CorpusDataModule(Corpus(table), group_key="patient", validation_size=0.3, test_size=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        CorpusDataModule(three, validation_size=0.2)
        CorpusDataModule(three, validation_size=0)
        CorpusDataModule(corpus)


def test_every_epoch_is_trained_without_validation_sections(fit):
    model, _ = fit({"validation_size": 0})
    assert "validation_loss" not in model.history and len(model.history["train_loss"]) == 3


def test_workers_without_a_section_are_not_started(fit, corpus, caplog):
    fit({"num_workers": 9, "n_shards": None, "validation_size": 0.7}, max_epochs=1)
    n_sections = len(CorpusDataModule(corpus, validation_size=0.7, seed=0).train_sections)
    assert f"Using {n_sections} of 9 workers" in caplog.text


def test_incompatible_numbers_are_refused(corpus, fit):
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        CorpusDataModule(corpus, batch_size=0)
    with pytest.raises(ValueError, match="num_workers=-1 must be at least 0"):
        CorpusDataModule(corpus, num_workers=-1)
    with pytest.raises(ValueError, match="together below 1"):
        CorpusDataModule(corpus, validation_size=0.6, test_size=0.5)
    for wrong in ({"num_workers": 2, "n_shards": 3}, {"num_workers": 0, "n_shards": 9}, {"n_shards": 0}):
        with pytest.raises(ValueError, match="expected a multiple of devices times workers"):
            fit(wrong)


def test_model_with_other_genes_is_refused(corpus, trained_model):
    with pytest.raises(ValueError, match=f"corpus has {len(corpus.genes)} genes and the model 150"):
        trained_model.train(datamodule=CorpusDataModule(corpus), max_epochs=1)
