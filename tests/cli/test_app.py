"""What all commands share: help, version, errors in one line, and the home folder in paths."""

import subprocess
import sys
from pathlib import Path

import pytest

import sagefm


def test_version(run):
    assert run("--version").output.strip() == sagefm.__version__


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in ("demo", "pretrain", "embed"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sagefm.cli._app import app\n"
        "assert CliRunner().invoke(app, ['demo', '--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'scvi', 'anndata', 'squidpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_diverged_training_ends_in_one_line(run, pretrain, table, tmp_path, monkeypatch, assert_one_line):
    assert_one_line(pretrain(tmp_path / "run", "--plan", '{"lr": 1e30}'), "Training diverged")
    assert not (tmp_path / "run" / "weights").exists()
    train = sagefm.SAGEFM.train

    def too_fast(model, **arguments):
        train(model, plan_kwargs={"lr": 1e30}, **arguments)

    monkeypatch.setattr(sagefm.SAGEFM, "train", too_fast)
    result = run("demo", table.parent / "section_1.h5ad", "--out", tmp_path / "out", "--max-epochs", "20")
    assert_one_line(result, "Training diverged")
    assert not (tmp_path / "out" / "section.h5ad").exists()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_out_may_start_with_the_home_folder(home, run, pretrain, table, trained):
    section = table.parent / "section_1.h5ad"
    results = [
        run("demo", section, "--out", "~/demo", "--max-epochs", "1"),
        pretrain("~/run", "--max-epochs", "1"),
        run("embed", trained[0] / "weights", section, "--out", "~/embedded"),
    ]
    assert [result.exit_code for result in results] == [0, 0, 0], [result.output for result in results]
    for written in ("demo/section.h5ad", "run/weights", "embedded/section_1.h5ad"):
        assert (home / written).exists()
    assert not Path("~").exists()
