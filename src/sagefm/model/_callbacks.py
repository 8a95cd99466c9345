"""Callbacks and guards of training: keep the best weights, stop when the loss diverges, survive an interruption."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer
from scvi.model.base import BaseModelClass
from scvi.train import TrainingPlan

from sagefm._errors import DivergedError


class BestWeights(Callback):
    """Keep in memory the weights with the lowest validation loss, and end training with them, however it ends."""

    def __init__(self) -> None:
        self.loss: float = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Note the weights if they are the best so far."""
        loss = trainer.callback_metrics.get("validation_loss")
        if not trainer.sanity_checking and loss is not None and float(loss) < self.loss:
            self.loss = float(loss)
            self.weights = _copied(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Take the best weights."""
        if self.weights:
            pl_module.module.load_state_dict(self.weights)

    def on_exception(self, trainer: Trainer, pl_module: TrainingPlan, exception: BaseException) -> None:
        """Take the best weights after Ctrl-C or an error as well."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.loss, self.weights = state["loss"], state["weights"]


class FiniteLoss(Callback):
    """Stop training with advice when a loss becomes NaN or infinite; the best weights stay, or those from before."""

    def on_train_start(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Note the weights."""
        self._weights = _copied(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Look at the losses of the epoch."""
        for name in ("train_loss", "validation_loss"):
            loss = float(trainer.callback_metrics.get(name, 0))
            if not math.isfinite(loss):
                pl_module.module.load_state_dict(self._weights)
                lr: float = pl_module.lr
                raise DivergedError(
                    f"Training diverged: {name} is {loss} in epoch {trainer.current_epoch + 1}, at a learning rate of "
                    f"{lr:g}. Lower it, for example with `plan_kwargs={{'lr': {min(lr / 10, 1e-4):g}}}`."
                )


def _copied(plan: TrainingPlan) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in plan.module.state_dict().items()}


@contextmanager
def stopped_safely(model: BaseModelClass, batch_size: int, finish: Callable[[], None]) -> Iterator[None]:
    """Leave a model that can be used where training is stopped by Ctrl-C, and name the way out of too little memory.

    `finish` is what makes a model of the weights that training leaves.
    """
    handler = signal.getsignal(signal.SIGINT)
    n_epochs = _n_epochs(model)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"The GPU has too little memory for steps of {batch_size} spots; "
            f"try `batch_size={max(batch_size // 2, 1)}`, or fewer genes."
        ) from error
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored, and exits
        n_epochs = _n_epochs(model) - n_epochs
        model.module.eval()
        if n_epochs:
            finish()
        model.is_trained_ = model.is_trained_ or n_epochs > 0
        left = "can be used with its best weights so far" if model.is_trained_ else "is still untrained"
        raise KeyboardInterrupt(f"Training was interrupted after {n_epochs} epochs; the model {left}.") from None


def _n_epochs(model: BaseModelClass) -> int:
    return len((model.history_ or {}).get("train_loss", ()))


def empty_history() -> dict[str, pd.DataFrame]:
    """Return what scvi-tools adds the losses of further training to; without it, it would keep none."""
    epochs = pd.RangeIndex(0, name="epoch")
    return {name: pd.DataFrame({name: []}, index=epochs, dtype=object) for name in ("train_loss", "validation_loss")}
