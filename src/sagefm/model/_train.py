"""`train`: the data it uses, how the network is initialised, and how long it runs."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from scvi import settings
from scvi.model.base import UnsupervisedTrainingMixin
from sklearn.utils.extmath import randomized_svd

from sagefm._quiet import quiet
from sagefm.data import Normalization, SectionSplitter, registered_adata
from sagefm.model._base import SpotModel
from sagefm.model._callbacks import BestWeights, EarlyStopReport, FiniteLoss, ProgressOnStderr, stopped_safely
from sagefm.model._training_record import make_record

_MIN_DEVIATION = 0.05  # of a principal component in the initialisation, on the standardised scale
_MAX_SAMPLED, _SAMPLED_ENTRIES = 4096, 2**26  # spots for the initialisation, and their entries (256 MB)
_SPOTS_SEEN = 120_000  # in training, by default: about 900 steps of 128
_SPOTS_OF_PATIENCE = 20_000  # without a lower validation loss, by default: about 150 steps


@runtime_checkable
class TrainingData(Protocol):
    """A data module that provides what the length of training and the initialisation depend on."""

    @property
    def n_spots(self) -> int:
        """Number of spots, by which the length of training is chosen."""

    @property
    def n_validation(self) -> int:
        """Number of spots to validate on."""

    def connect(self, normalization: Normalization, genes: pd.Index) -> None:
        """Use the model's normalisation; raise if the model's genes are not those of the data."""

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation of every gene over the training spots, each (genes,)."""

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
        """Train the model with scvi-tools and Lightning.

        With three or more sections, whole sections are held out for validation if some add up to about the requested
        share. Otherwise, compact blocks of tissue are held out, and spots with a validation spot among their neighbours
        are excluded from training, so no count of a validation spot is an input or a target. Training stops when the
        validation loss no longer decreases. `scvi.settings.seed` fixes the split, the initial weights and the masks:
        two runs with the same seed agree.

        The network is initialised from a principal component analysis (PCA) of the training spots if its architecture
        allows this: `conv="sage"`, `scale_genes=True`, one hidden layer, and two hidden units per latent dimension. Its
        losses then start close to their final values. A model that is already trained continues from its weights.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the data. By default between 10 and 400, such that training takes about 900
            steps of 128 spots.
        accelerator, devices
            Hardware to train on, as in :class:`lightning.pytorch.Trainer`.
        train_size
            Approximate share of the spots to train on. Defaults to 0.9. With 1 there is no validation and no early
            stopping.
        validation_size
            Approximate share of the spots to validate on. Defaults to all spots that are not for training. Any
            remaining spots are held out for testing, as `test_indices`.
        batch_size
            Number of spots per training step.
        early_stopping
            Whether to stop when the validation loss has not decreased for `early_stopping_patience` epochs, and to
            keep the weights with the lowest validation loss: for a model that is already trained, maybe those from
            before.
        early_stopping_patience
            See `early_stopping`. Defaults to the number of epochs in which 20,000 spots are seen, at least 3.
        datamodule
            Lightning data module that provides the batches, instead of the model's AnnData; see
            :class:`sagefm.pretraining.CorpusDataModule`.
        datasplitter_kwargs
            Further arguments of the data splitter, for example `external_indexing`.
        plan_kwargs
            Arguments of the training plan: `lr`, `weight_decay`, `reduce_lr_on_plateau` and others of
            :class:`scvi.train.TrainingPlan`.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`, for example `enable_progress_bar` or `callbacks`.
            `precision` may be `"32-true"` (the default), `"16-mixed"` or `"bf16-mixed"`.

        Raises
        ------
        ValueError
            If `max_epochs`, `precision`, `train_size` or `validation_size` is out of range.
        RuntimeError
            If the loss became NaN or infinite. The model then has the best weights so far, or those from before
            training if there are none.
        torch.OutOfMemoryError
            If the GPU has too little memory; the message suggests a smaller `batch_size`.
        KeyboardInterrupt
            After Ctrl-C. The model has the best weights so far (without early stopping, the latest) and can be used if
            an epoch was completed.

        Examples
        --------
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> model = sagefm.SAGEFM(adata)
        >>> model.train(max_epochs=2, plan_kwargs={"lr": 1e-3}, enable_progress_bar=False)
        >>> len(model.history["validation_loss"])
        2
        """
        if max_epochs is not None and max_epochs < 1:
            raise ValueError(f"max_epochs={max_epochs!r} must be a whole number, 1 or more.")
        _refuse_other_precision(trainer_kwargs.get("precision"))
        if datamodule is None:
            options = {"batch_size": batch_size, **(datasplitter_kwargs or {})}
            datamodule = SectionSplitter(self._read(None)[1], train_size, validation_size, **options)
        if isinstance(datamodule, TrainingData):
            self._initialize(datamodule, resumed=trainer_kwargs.get("ckpt_path") is not None)
            early_stopping = early_stopping and datamodule.n_validation > 0
            max_epochs = max_epochs or int(np.clip(_SPOTS_SEEN / datamodule.n_spots, 10, 400))
            early_stopping_patience = early_stopping_patience or max(3, _SPOTS_OF_PATIENCE // datamodule.n_spots)
        # Lightning cannot clip gradients for a fused optimiser in mixed precision.
        clips_mixed = trainer_kwargs.get("gradient_clip_val") and "16" in str(trainer_kwargs.get("precision"))
        plan_kwargs = {"fused": not clips_mixed, **(plan_kwargs or {})}
        callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), FiniteLoss(), EarlyStopReport()]
        if trainer_kwargs.get("enable_progress_bar", True) and trainer_kwargs.get("simple_progress_bar", True):
            callbacks.append(ProgressOnStderr(trainer_kwargs.get("progress_bar_refresh_rate", 1)))
            trainer_kwargs["simple_progress_bar"] = False
        if early_stopping:  # a trained model must not get worse by training
            callbacks.append(BestWeights(initial=self.is_trained_))
            trainer_kwargs |= {"num_sanity_val_steps": -1} if self.is_trained_ else {}
        self.module.train()  # Lightning keeps the mode of a module, and results are computed in evaluation mode
        finish = partial(self._finish, datamodule)
        with quiet(), stopped_safely(self, getattr(datamodule, "batch_size", batch_size), finish):
            super().train(
                max_epochs,
                accelerator=accelerator,
                devices=devices,
                datamodule=datamodule,
                early_stopping=early_stopping,
                early_stopping_monitor="validation_loss",
                early_stopping_patience=early_stopping_patience or 10,
                plan_kwargs=plan_kwargs,
                callbacks=callbacks,
                **trainer_kwargs | getattr(datamodule, "trainer_kwargs", {}),
            )
        finish()

    def _initialize(self, data: TrainingData, *, resumed: bool) -> None:
        """Connect the data; give an untrained network the moments of its genes and initialise it from PCA."""
        data.connect(self.module.normalization, self.genes)
        if not self.module.scale_genes or self.is_trained_ or resumed:
            return
        self.module.normalization.set_moments(*data.gene_moments())
        sample = data.sample(min(_MAX_SAMPLED, _SAMPLED_ENTRIES // len(self.genes)))  # dense
        n_components = min(self.module.decoder.in_features, *sample.shape)
        _, values, components = randomized_svd(sample.numpy(), n_components, random_state=settings.seed or 0)
        deviation = np.maximum(values / np.sqrt(len(sample)), _MIN_DEVIATION)
        self.module.init_from_pca(torch.from_numpy(components).float(), torch.from_numpy(deviation).float())

    def _finish(self, datamodule: LightningDataModule) -> None:
        """Record the split, which scvi-tools does only after uninterrupted training; orthogonalise the decoder."""
        for name, index in (("train", "train_idx"), ("validation", "val_idx"), ("test", "test_idx")):
            setattr(self, f"{name}_indices", getattr(datamodule, index, None))
        if isinstance(datamodule, SectionSplitter):
            self._record(datamodule.library_sizes, np.concatenate([datamodule.val_idx, datamodule.test_idx]))
        self.module.orthogonalize_decoder()

    def _record(self, library_sizes: np.ndarray, held_out: np.ndarray) -> None:
        """Remember the spots of the model's AnnData by name, with which of them, by position, were held out."""
        names, is_held_out = registered_adata(self.adata_manager).obs_names, np.zeros(len(library_sizes), dtype=bool)
        is_held_out[held_out.astype(int)] = True
        earlier = getattr(self, "training_record_", None)
        self.training_record_ = make_record(names, library_sizes, is_held_out, earlier)
        self._trained_on = self.adata


def _refuse_other_precision(precision: Any) -> None:
    """Raise unless the weights stay float32."""
    if str(precision) not in ("None", "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed"):
        raise ValueError(
            f"precision={precision!r} changes the type of the weights, but the counts, the initialisation and the file "
            'format are float32. Use "32-true", the default, or mixed precision, "bf16-mixed" or "16-mixed".'
        )
