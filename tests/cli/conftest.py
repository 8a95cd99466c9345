"""Commands as typed in a shell, a small corpus, and weights that were pretrained on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scvi
import torch
from typer.testing import CliRunner

import sagefm
from sagefm.cli._app import app

Run = Callable[..., Any]
SMALL = ["--model", '{"n_hidden": 16, "n_latent": 4}', "--batch-size", "16", "--accelerator", "cpu", "--workers", "0"]


@pytest.fixture(autouse=True)
def settings():
    """Restore the settings that commands change for the whole process."""
    seed, n_threads = scvi.settings.seed, torch.get_num_threads()
    yield
    scvi.settings.seed, scvi.settings.num_threads = seed, n_threads


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command with its arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A table of five sections of one tissue, in one folder with it, and of a file that is not a section."""
    folder = tmp_path_factory.mktemp("sections")
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=5)
    names = list(tissue.obs["sample"].cat.categories)
    for name in names:
        tissue[tissue.obs["sample"] == name].copy().write_h5ad(folder / f"{name}.h5ad")
    (folder / "broken.h5ad").write_text("not a section")
    table = pd.DataFrame({"path": [f"{name}.h5ad" for name in [*names, "broken"]], "licence": "CC BY 4.0"})
    table["split"] = ["train", "train", "train", "validation", "test", "train"]
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="session")
def pretrain(run, table) -> Run:
    """Run `sagefm pretrain` on the corpus, into a folder."""
    return lambda out, *more: run("pretrain", table, "--out", out, "--split-key", "split", *SMALL, *more)


@pytest.fixture(scope="session")
def trained(pretrain, tmp_path_factory) -> tuple[Path, str]:
    """Folder and output of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = pretrain(out, "--max-epochs", "3", "--checkpoint-every", "5")
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.fixture
def assert_one_line() -> Callable[[Any, str], None]:
    """Check that a command ended with exit code 1 and one line on stderr, without a traceback."""

    def check(result: Any, message: str) -> None:
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
        assert message in line and result.stderr.endswith(f"{line}\n")

    return check
