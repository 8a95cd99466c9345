"""scvi-tools training plan with the optimiser and the log that the masked-centre objective wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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
        self, module: BaseModuleClass, *, lr: float = 1e-3, weight_decay: float = 1e-5, eps: float = 1e-8, **kwargs: Any
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
