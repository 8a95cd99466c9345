"""Two checks of a training run on any corpus: killed and resumed, and on two processes.

    python benchmarks/pretraining/checks.py CORPUS [--steps 60] [--batch-size 64]

A run is killed with SIGKILL at a random step and resumed; its weights are compared with those of an uninterrupted run.
Then two processes (DDP, gloo) train on half the batch each, and one process accumulates gradients over two such
half-batches; the losses are compared at every step. `--seed` sets the step at which the run is killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import scvi
import torch
from lightning.pytorch.callbacks import Callback

import sagefm
from sagefm.pretraining import Corpus, CorpusDataModule, ResumePoint

warnings.simplefilter("ignore")


class Losses(Callback):
    """Record the loss of every batch that this process trains on."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        self.values.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *arguments) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(task: dict) -> None:
    """Train as specified in `task`; write the weights, and the losses of this process."""
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    corpus = Corpus(task["corpus"], index=task["index"])
    model = sagefm.SAGEFM(registry=corpus.registry)
    data = CorpusDataModule(
        corpus, batch_size=task["batch_size"], n_shards=2, validation_size=0, seed=0, num_workers=task["workers"]
    )
    losses = Losses()
    callbacks = [losses]
    if task.get("checkpoint"):
        callbacks.append(ResumePoint(task["checkpoint"], every_n_steps=7))
    if task.get("kill_at"):
        callbacks.append(KillAt(task["kill_at"]))
    model.train(
        datamodule=data,
        max_epochs=1_000,
        max_steps=task["steps"],
        early_stopping=False,
        accelerator="cpu",
        devices=task.get("devices", 1),
        strategy="ddp" if task.get("devices", 1) > 1 else "auto",
        accumulate_grad_batches=task.get("accumulate", 1),
        callbacks=callbacks,
        ckpt_path=task.get("resume"),
        enable_progress_bar=False,
    )
    rank = model.trainer.global_rank
    torch.save({"weights": model.module.state_dict(), "losses": losses.values}, f"{task['out']}.{rank}")


def start(folder: Path, **task: object) -> int:
    """Run a task in its own process; return the exit status."""
    file = folder / f"{Path(str(task['out'])).name}.json"
    file.write_text(json.dumps(task, default=str))
    command = [sys.executable, __file__, "--task", str(file)]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    ).returncode


def largest_difference(first: dict, second: dict) -> float:
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def check_resume(folder: Path, common: dict, kill_at: int) -> None:
    options = {**common, "workers": 2}
    assert start(folder, **options, out=folder / "whole") == 0
    checkpoint = folder / "last.ckpt"
    status = start(folder, **options, out=folder / "killed", checkpoint=checkpoint, kill_at=kill_at)
    assert status == -signal.SIGKILL and checkpoint.exists(), status
    assert start(folder, **options, out=folder / "resumed", resume=checkpoint) == 0
    whole, resumed = (torch.load(folder / f"{name}.0")["weights"] for name in ("whole", "resumed"))
    print(
        f"killed at step {kill_at} of {common['steps']}, resumed: largest difference of a weight "
        f"{largest_difference(whole, resumed):g}"
    )


def check_ddp(folder: Path, common: dict) -> None:
    options = {**common, "workers": 0, "batch_size": common["batch_size"] // 2}
    assert start(folder, **options, out=folder / "two", devices=2) == 0
    assert start(folder, **options, out=folder / "one", accumulate=2) == 0
    two = [torch.load(folder / f"two.{rank}") for rank in (0, 1)]
    one = torch.load(folder / "one.0")
    curve = np.mean([part["losses"] for part in two], axis=0)
    accumulated = np.array(one["losses"]).reshape(-1, 2).mean(axis=1)
    print(
        f"two processes against one with twice the batch, {len(curve)} steps: loss {curve[0]:.4f} to {curve[-1]:.4f}, "
        f"largest difference {np.abs(curve - accumulated).max():.2g}; of a weight "
        f"{largest_difference(two[0]['weights'], one['weights']):.2g}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run(json.loads(Path(arguments.task).read_text()))
    else:
        with tempfile.TemporaryDirectory() as name:
            common = {"corpus": arguments.corpus, "index": f"{name}/index", "steps": arguments.steps}
            common["batch_size"] = arguments.batch_size
            kill_at = random.Random(arguments.seed).randrange(8, arguments.steps - 1)
            check_resume(Path(name), common, kill_at)
            check_ddp(Path(name), common)
