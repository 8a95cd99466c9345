"""`train`: which spots, from where, for how long."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from scvi import settings
from scvi.model.base import UnsupervisedTrainingMixin
from sklearn.utils.extmath import randomized_svd

from sagefm.data import Normalization, SectionSplitter
from sagefm.model._base import SpotModel
from sagefm.model._callbacks import BestWeights, FiniteLoss, stopped_safely

_LEAST_DEVIATION = 0.05  # of a principal component that training starts from, on the standardised scale
_MOST_SAMPLED, _SAMPLED_ENTRIES = 4096, 2**26  # spots, and their entries (256 MB), that training starts from
_SPOTS_TO_SEE = 120_000  # in training, by default: about 900 steps of 128
_SPOTS_TO_WAIT = 20_000  # for the validation loss to fall, by default: about 150 steps


@runtime_checkable
class TrainingData(Protocol):
    """A data module that knows how many spots it has, and what training starts from."""

    @property
    def n_spots(self) -> int:
        """Number of spots, by which the length of training is chosen."""

    @property
    def n_validation(self) -> int:
        """Number of spots to validate on."""

    def connect(self, normalization: Normalization, genes: pd.Index) -> None:
        """Take the model's normalisation and genes; raise if its own genes are others."""

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene over the training spots, each (genes,)."""

    def sample(self, n_spots: int) -> torch.Tensor:
        """Return the network's input for at most `n_spots` training spots, (spots, genes)."""


class TrainMixin(UnsupervisedTrainingMixin, SpotModel):
    """`train`, for :class:`sagefm.SAGEFM`."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = True,
        early_stopping_patience: int | None = None,
        datamodule: LightningDataModule | None = None,
        datasplitter_kwargs: dict | None = None,
        plan_kwargs: dict | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model by scvi-tools on Lightning.

        Validation spots are whole sections where there are three or more, else compact blocks of tissue, none of whose
        counts a training spot sees. Training stops when the loss on them no longer falls. `scvi.settings.seed` fixes
        the split, the initial weights and the masks: two runs agree.

        Training starts from a principal component analysis of the training spots where the network allows it: with
        `conv="sage"`, `scale_genes`, one hidden layer and two hidden units for each latent number. Its losses then
        begin near where they end. A trained model goes on from its weights.

        Parameters
        ----------
        max_epochs
            Most passes over the data; by default about 900 steps of 128 spots, between 10 and 400 passes.
        accelerator, devices
            Where to train, as in :class:`lightning.pytorch.Trainer`.
        train_size
            Share of the spots to train on, about; 0.9 by default. With 1 there is no validation, and early stopping is
            off.
        validation_size
            Share of the spots to validate on, about; by default all that are not for training. What is left over is
            held out for testing, as `test_indices`.
        batch_size
            Spots in a step.
        early_stopping
            Whether to stop when the validation loss has not fallen for `early_stopping_patience` epochs. Training
            ends with the weights that had the lowest validation loss.
        early_stopping_patience
            See `early_stopping`; by default as many epochs as show 20,000 spots, at least 3.
        datamodule
            Lightning data module that gives the batches, instead of the model's AnnData; see
            :class:`sagefm.pretraining.CorpusDataModule`.
        datasplitter_kwargs
            More arguments of the data splitter, for example `external_indexing`.
        plan_kwargs
            Arguments of the training plan: `lr`, `weight_decay`, `reduce_lr_on_plateau` and others of
            :class:`scvi.train.TrainingPlan`.
        **trainer_kwargs
            More arguments of :class:`scvi.train.Trainer`, for example `enable_progress_bar`, `callbacks`.

        Raises
        ------
        ValueError
            If `max_epochs`, `train_size` or `validation_size` is out of range.
        RuntimeError
            If the loss is no number any more; the model has the weights from before, or the best so far.
        torch.OutOfMemoryError
            If the GPU has too little memory; the message names a smaller `batch_size`.
        KeyboardInterrupt
            On Ctrl-C. The model has the best weights so far, or, without early stopping, the last ones, and can be used
            if an epoch was finished.

        Examples
        --------
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> model = sagefm.SAGEFM(adata)
        >>> model.train(max_epochs=2, plan_kwargs={"lr": 1e-3}, enable_progress_bar=False)
        >>> len(model.history["validation_loss"])
        2
        """
        if max_epochs is not None and max_epochs < 1:
            raise ValueError(f"max_epochs={max_epochs!r} must be a whole number, 1 or more.")
        if datamodule is None:
            options = {"batch_size": batch_size, **(datasplitter_kwargs or {})}
            datamodule = SectionSplitter(self._read(None)[1], train_size, validation_size, **options)
        own = datamodule if isinstance(datamodule, TrainingData) else None
        if own is not None:
            self._begin(own, resumed=trainer_kwargs.get("ckpt_path") is not None)
        length = _length(own, max_epochs, early_stopping, early_stopping_patience)
        callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), FiniteLoss()]
        callbacks += [BestWeights()] if length["early_stopping"] else []
        trainer_kwargs |= getattr(datamodule, "trainer_kwargs", {})
        self.module.train()  # Lightning keeps the mode of a module, and a getter has put it in evaluation
        finish = partial(self._finish, datamodule)
        with stopped_safely(self, getattr(datamodule, "batch_size", batch_size), finish):
            super().train(
                accelerator=accelerator,
                devices=devices,
                datamodule=datamodule,
                **length,
                early_stopping_monitor="validation_loss",
                plan_kwargs=plan_kwargs,
                callbacks=callbacks,
                **trainer_kwargs,
            )
        finish()

    def _begin(self, data: TrainingData, *, resumed: bool) -> None:
        """Let an untrained network start from the moments of the genes and a PCA of the training spots."""
        data.connect(self.module.normalization, self.genes)
        if not self.module.scale_genes or self.is_trained_ or resumed:
            return
        self.module.normalization.set_moments(*data.gene_moments())
        # The sampled spots are dense at one time.
        sample = data.sample(min(_MOST_SAMPLED, _SAMPLED_ENTRIES // len(self.genes)))
        n_components = min(self.module.decoder.in_features, *sample.shape)
        _, values, components = randomized_svd(sample.numpy(), n_components, random_state=settings.seed or 0)
        deviation = np.maximum(values / np.sqrt(len(sample)), _LEAST_DEVIATION)
        self.module.init_from_pca(torch.from_numpy(components).float(), torch.from_numpy(deviation).float())

    def _finish(self, datamodule: LightningDataModule) -> None:
        """Record which spots were used for what, as scvi-tools does after an uninterrupted training only."""
        for name, index in (("train", "train_idx"), ("validation", "val_idx"), ("test", "test_idx")):
            setattr(self, f"{name}_indices", getattr(datamodule, index, None))
        self.module.orthogonalize_decoder()


def _length(
    data: TrainingData | None, max_epochs: int | None, early_stopping: bool, patience: int | None
) -> dict[str, Any]:
    """Return the trainer's arguments that say when training ends, by the number of spots where they were not given."""
    if data is not None:
        early_stopping = early_stopping and data.n_validation > 0
        max_epochs = max_epochs or int(np.clip(_SPOTS_TO_SEE / data.n_spots, 10, 400))
        patience = patience or max(3, _SPOTS_TO_WAIT // data.n_spots)
    return {"max_epochs": max_epochs, "early_stopping": early_stopping, "early_stopping_patience": patience or 10}
