"""A checkpoint to resume training from, written every few steps."""

import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class ResumePoint(Callback):
    """Write `path` every `every_n_steps` steps and at the end of training; the file is never incomplete.

    :class:`scvi.train.Trainer` accepts Lightning's `ModelCheckpoint` only together with its own `SaveCheckpoint`, which
    saves the model but not what is needed to resume training. Therefore this callback.

    Parameters
    ----------
    path
        The checkpoint, for `SAGEFM.train(..., ckpt_path=path)`.
    every_n_steps
        Number of optimiser steps between two checkpoints.

    Raises
    ------
    ValueError
        If `every_n_steps` is below 1.

    Examples
    --------
    >>> import sagefm
    >>> point = sagefm.pretraining.ResumePoint("last.ckpt", every_n_steps=500)
    >>> point.every_n_steps
    500
    """

    def __init__(self, path: str | Path, every_n_steps: int = 200) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps!r} must be at least 1.")
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._written_at = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write the checkpoint if enough steps have passed."""
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._written_at:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint, so that a finished run can be resumed for more epochs."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self._written_at = trainer.global_step
        temporary = self.path.with_name(f".{self.path.name}")
        trainer.save_checkpoint(temporary)  # on every rank: strategies collect their parts here
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
