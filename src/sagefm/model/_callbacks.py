"""Callbacks and guards of training: the best weights, diverging losses, interruptions, and what is printed."""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from lightning import Callback, Trainer
from scvi.model.base import BaseModelClass
from scvi.train import LoudEarlyStopping, TrainingPlan
from scvi.train._progress import ProgressBar

from sagefm._errors import DivergedError
from sagefm._logging import logger


class BestWeights(Callback):
    """Keep the weights with the lowest validation loss in memory, and restore them when training ends in any way.

    Parameters
    ----------
    initial
        Whether the weights from before training count: Lightning's sanity check then has to run on all validation data.
    """

    def __init__(self, *, initial: bool = False) -> None:
        self.initial = initial
        self.loss: float = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Copy the weights if they are the best so far."""
        loss = float(trainer.callback_metrics.get("validation_loss", math.inf))
        if (self.initial or not trainer.sanity_checking) and loss < self.loss:
            self.loss, self.weights = loss, _copied(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Restore the best weights."""
        if self.weights:
            pl_module.module.load_state_dict(self.weights)

    def on_exception(self, trainer: Trainer, pl_module: TrainingPlan, exception: BaseException) -> None:
        """Restore the best weights after Ctrl-C or an error as well."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is stored in a checkpoint."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.loss, self.weights = state["loss"], state["weights"]


class FiniteLoss(Callback):
    """Stop training with advice when a loss becomes NaN or infinite; restore the best weights, or the initial ones."""

    def on_train_start(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Copy the initial weights."""
        self._weights = _copied(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Check the losses of the epoch."""
        for name in ("train_loss", "validation_loss"):
            loss = float(trainer.callback_metrics.get(name, 0))
            if not math.isfinite(loss):
                pl_module.module.load_state_dict(self._weights)
                lr = float(pl_module.lr)
                raise DivergedError(
                    f"Training diverged: {name} is {loss} in epoch {trainer.current_epoch + 1}, at a learning rate of "
                    f"{lr:g}. Lower it, for example with `plan_kwargs={{'lr': {min(lr / 10, 1e-4):g}}}`."
                )


class ProgressOnStderr(ProgressBar):
    """The progress bar of scvi-tools, on stderr."""

    def init_train_tqdm(self, trainer: Trainer) -> Any:
        """Create the bar."""
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm(trainer)

    def on_exception(self, trainer: Trainer, pl_module: TrainingPlan, exception: BaseException) -> None:
        """Close the bar, so that the error starts a line of its own."""
        if (bar := getattr(self, "main_progress_bar", None)) is not None:
            bar.close()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: TrainingPlan) -> None:
        """Do not report the check: it only scores the weights from before training."""

    def get_metrics(self, trainer: Trainer, pl_module: TrainingPlan) -> dict[str, Any]:
        """Return what the bar shows, without the number of the logger's run."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class EarlyStopReport(Callback):
    """Log why training stopped early, instead of the line that scvi-tools prints."""

    def teardown(self, trainer: Trainer, pl_module: TrainingPlan, stage: str) -> None:
        """Report a stop, after the progress bar is closed."""
        for stopping in trainer.early_stopping_callbacks:
            if isinstance(stopping, LoudEarlyStopping) and stopping.early_stopping_reason is not None:
                stopping.early_stopping_reason = None  # scvi-tools would print it
                logger.info(
                    f"Training stopped after {stopping.stopped_epoch + 1} epochs: the validation loss had not "
                    f"decreased for {stopping.patience} epochs. The best weights are kept."
                )


def _copied(plan: TrainingPlan) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in plan.module.state_dict().items()}


@contextmanager
def stopped_safely(model: BaseModelClass, batch_size: int, finish: Callable[[], None]) -> Iterator[None]:
    """Leave a usable model when training is stopped by Ctrl-C, and suggest a remedy when GPU memory runs out.

    `finish` completes a model with the weights that training left.
    """
    handler, n_before = signal.getsignal(signal.SIGINT), _n_epochs(model)
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
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further signals, and exits
        model.module.eval()
        if n_epochs := _n_epochs(model) - n_before:
            finish()
            model.is_trained_ = True
        left = "can be used with its best weights so far" if model.is_trained_ else "is still untrained"
        raise KeyboardInterrupt(f"Training was interrupted after {n_epochs} epochs; the model {left}.") from None


def _n_epochs(model: BaseModelClass) -> int:
    return len((model.history_ or {}).get("train_loss", ()))
