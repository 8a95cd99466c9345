"""What a user sees: lines of sagefm and the progress bar, on stderr; no lines of other packages."""

import logging
import re
import subprocess
import sys
import warnings

import anndata as ad
import pytest
import scvi.data._download
import scvi.train._progress

import sagefm
from sagefm._quiet import quiet

# Lightning asks for more workers only where there are several cores.
SCRIPT = """
import os
os.sched_getaffinity = lambda process: set(range(8))
import matplotlib
matplotlib.use("agg")
import sagefm
adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
sagefm.SAGEFM.setup_anndata(adata)
model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=2)
model.train(max_epochs=3)
model.train(early_stopping_patience=1, accelerator="cpu", plan_kwargs={"lr": 0.1})
model.save("model")
sagefm.SAGEFM.load("model", adata)
model.save_pretrained("weights")
sagefm.SAGEFM.from_pretrained("weights", adata)
sagefm.pl.domains(adata, "annotation")
"""
PROGRESS = r"\r|^(Training|Epoch \d+/\d+): .*$"
OURS = ("Built the neighbour graph", "Training on ", "Training stopped after ")


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> subprocess.CompletedProcess:
    folder = tmp_path_factory.mktemp("session")
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def test_nothing_is_printed_on_stdout(shown):
    assert shown.stdout == ""


def test_other_packages_say_nothing(shown):
    rest = re.sub(PROGRESS, "\n", shown.stderr, flags=re.MULTILINE)
    messages = re.sub(r"\n {9}", " ", rest)  # rich wraps lines
    lines = [line.removeprefix("INFO").strip() for line in messages.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith(OURS)] == []
    assert sum(line.startswith("Training stopped after ") for line in lines) == 1


def test_progress_is_on_stderr_and_shows_the_loss(shown):
    assert re.search(r"Epoch 3/3: 100%.*, train_loss=\d", shown.stderr)
    assert "v_num" not in shown.stderr


def test_the_session_of_the_user_is_as_before(adata: ad.AnnData):
    filters, loggers = list(warnings.filters), [logging.getLogger(name) for name in ("lightning.pytorch", "scvi")]
    levels = [logger.level for logger in loggers]
    sagefm.SAGEFM.setup_anndata(adata)
    sagefm.SAGEFM(adata).train(max_epochs=1, enable_progress_bar=False)
    assert list(warnings.filters) == filters
    assert [logger.level for logger in loggers] == levels
    with pytest.warns(SyntaxWarning):
        warnings.warn("'n_jobs' is not a valid key!", SyntaxWarning, stacklevel=1)
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert not logging.getLogger("lightning.pytorch.utilities.rank_zero").filters


def test_other_messages_are_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    logger = scvi.data._download.logger
    assert logger.name == "scvi.data._download"
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with quiet(), pytest.warns(UserWarning, match="act on this"):
        logger.info("File model.pt already downloaded")
        logger.info("Downloading file at model.pt")
        warnings.warn("act on this", UserWarning, stacklevel=1)
    assert {record.message for record in caplog.records} == {"Downloading file at model.pt"}


def test_the_names_of_scvi_tools_exist():
    assert callable(scvi.train._progress.ProgressBar.init_train_tqdm)
    assert scvi.train.LoudEarlyStopping(monitor="loss", warmup_epochs=0).early_stopping_reason is None
