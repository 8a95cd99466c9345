"""scvi-tools training plan for the masked-centre objective."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan


class MaskedCenterPlan(TrainingPlan):
    """Train with the masked-centre loss, logged as `train_loss` and `validation_loss`; nothing else is logged.

    Parameters
    ----------
    module
        The network.
    lr, weight_decay, eps
        Settings of Adam. The default `eps` of scvi-tools, 0.01, is for likelihoods summed over genes; this loss is a
        mean.
    fused
        Whether Adam passes over the weights once instead of once for each of its operations. Lightning cannot clip
        gradients for a fused optimiser in mixed precision.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        eps: float = 1e-8,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("lr_scheduler_metric", "validation_loss")
        self.fused = fused
        super().__init__(module, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)

    def _optimizer_creator_fn(self, optimizer_cls: type[torch.optim.Adam] | type[torch.optim.AdamW]) -> Callable:
        return partial(optimizer_cls, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=self.fused)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the data module refuse the checkpoint first: with other genes, its weights do not even fit."""
        datamodule = self.trainer.datamodule
        if (state := checkpoint.get(type(datamodule).__qualname__)) is not None:
            datamodule.load_state_dict(state)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, and store the number of spots for :meth:`log`."""
        outputs = super().forward(*args, **kwargs)
        self._n_spots = outputs[2].n_obs_minibatch
        return outputs

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log with the number of spots: Lightning cannot infer it, since some tensors of a batch have a single row."""
        super().log(*args, **{"batch_size": self._n_spots, **kwargs})

    def compute_and_log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log no evidence lower bound: there is no likelihood to bound."""
