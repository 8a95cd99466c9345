"""scvi-tools training plan for the masked-centre objective."""

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
        self, module: BaseModuleClass, *, lr: float = 1e-4, weight_decay: float = 1e-5, eps: float = 1e-8, **kwargs: Any
    ) -> None:
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)

    def _optimizer_creator_fn(self, optimizer_cls: type[torch.optim.Adam] | type[torch.optim.AdamW]) -> Callable:
        # Fused: one pass over the weights instead of one for each of Adam's operations.
        return lambda params: optimizer_cls(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, and note the number of spots for :meth:`log`."""
        outputs = super().forward(*args, **kwargs)
        self._n_spots = outputs[2].n_obs_minibatch
        return outputs

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log with the number of spots, which Lightning cannot tell: what a batch's spots share is one row of it."""
        super().log(*args, **{"batch_size": self._n_spots, **kwargs})

    def compute_and_log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log no evidence lower bound: there is no likelihood to bound."""
