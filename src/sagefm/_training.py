"""scvi-tools training plan for the masked-centre objective, and the callback that keeps the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan


class MaskedCenterPlan(TrainingPlan):
    """Train by the masked-centre loss; it is logged as `train_loss` and `validation_loss` and as nothing else.

    Parameters
    ----------
    module
        The network.
    lr, weight_decay, eps
        Settings of Adam. scvi-tools' own `eps` of 0.01 is made for likelihoods summed over genes; this loss is a mean.
    **kwargs
        Passed on to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self, module: BaseModuleClass, *, lr: float = 1e-4, weight_decay: float = 1e-5, eps: float = 1e-8, **kwargs: Any
    ) -> None:
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)

    def _optimizer_creator_fn(self, optimizer_cls: type[torch.optim.Adam] | type[torch.optim.AdamW]) -> Callable:
        # Fused: one pass over the weights instead of one for each of Adam's operations.
        return lambda params: optimizer_cls(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def compute_and_log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log no evidence lower bound: there is no likelihood to bound."""


class BestWeights(Callback):
    """Keep in memory the weights with the lowest validation loss, and end training with them."""

    def __init__(self) -> None:
        self.loss: float = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the weights if they are the best so far."""
        loss = trainer.callback_metrics.get("validation_loss")
        if not trainer.sanity_checking and loss is not None and float(loss) < self.loss:
            self.loss = float(loss)
            self.weights = {name: value.detach().clone() for name, value in pl_module.module.state_dict().items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the best weights."""
        if self.weights:
            pl_module.module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.loss, self.weights = state["loss"], state["weights"]
