"""`train`: which spots, from where, for how long."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from scvi import settings
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from sklearn.utils.extmath import randomized_svd

from sagefm._splitting import SectionSplitter
from sagefm._training import BestWeights, FiniteLoss, stopped_safely
from sagefm.pretraining import CorpusDataModule

_LEAST_DEVIATION = 0.05  # of a principal component that training begins with, in units of the genes
_MOST_SAMPLED, _SAMPLED_ENTRIES = 4096, 2**26  # spots, and their entries (256 MB), that training begins from
_SPOTS_TO_SEE = 120_000  # in training, by default: about 900 steps of 128
_SPOTS_TO_WAIT = 20_000  # for the validation loss to fall, by default: about 150 steps


class TrainMixin(UnsupervisedTrainingMixin, BaseModelClass):
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
            datamodule = self._split(
                train_size=train_size,
                validation_size=validation_size,
                batch_size=batch_size,
                **(datasplitter_kwargs or {}),
            )
        elif isinstance(datamodule, CorpusDataModule):
            self._connect(datamodule, resumed=trainer_kwargs.get("ckpt_path") is not None)
            trainer_kwargs["use_distributed_sampler"] = False  # its batches know of the devices
        length = _length(datamodule, max_epochs, early_stopping, early_stopping_patience)
        callbacks = [*(trainer_kwargs.pop("callbacks", None) or []), FiniteLoss()]
        callbacks += [BestWeights()] if length["early_stopping"] else []
        self.module.train()  # Lightning leaves a module in the mode it finds, and a getter has put it in evaluation
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

    def _finish(self, datamodule: LightningDataModule) -> None:
        """Note which spots were for what, as scvi-tools does only where no one interrupts, and settle the latents."""
        for name, index in (("train", "train_idx"), ("validation", "val_idx"), ("test", "test_idx")):
            setattr(self, f"{name}_indices", getattr(datamodule, index, None))
        self.module.settle()

    def _split(self, **kwargs: Any) -> SectionSplitter:
        """Split the model's own spots, and start from those to train on."""
        spots = self._spots_of(None)
        splitter = SectionSplitter(spots, **kwargs)
        if self.module.scale_genes and not self.is_trained_:
            rows = splitter.external_indexing[0]
            self._fix_units(*spots.gene_moments(rows))
            spots.normalization = self.module.normalization
            rows = np.random.default_rng(settings.seed).permutation(rows)[: self._n_sampled]
            self._start_from(spots.inputs(rows, spots.units.of(rows)))
        return splitter

    def _connect(self, datamodule: CorpusDataModule, *, resumed: bool) -> None:
        """Let the corpus give its batches on the model's scale, and start from its genes' moments."""
        datamodule.corpus.require_genes(self.genes)
        if self.module.scale_genes and not self.is_trained_ and not resumed:
            corpus, sections, seed = datamodule.corpus, datamodule.train_sections, datamodule.seed
            self._fix_units(*corpus.gene_moments(self.module.normalization, sections, seed=seed))
            sample = corpus.sample(self.module.normalization, sections, n_spots=self._n_sampled, seed=seed)
            self._start_from(sample)
        datamodule.normalization = self.module.normalization

    @property
    def _n_sampled(self) -> int:
        """Number of spots whose principal components training begins with: they are dense at one time."""
        return min(_MOST_SAMPLED, _SAMPLED_ENTRIES // len(self.genes))

    def _fix_units(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Fix the units of genes that a section is too small to tell, by the training spots."""
        self.module.fix_units(torch.from_numpy(mean), torch.from_numpy(deviation))

    def _start_from(self, sample: torch.Tensor) -> None:
        """Begin as the principal component analysis of a sample of the training spots, (spots, genes)."""
        n_components = min(self.module.decoder.in_features, *sample.shape)
        _, values, components = randomized_svd(sample.numpy(), n_components, random_state=settings.seed or 0)
        deviation = np.maximum(values / np.sqrt(len(sample)), _LEAST_DEVIATION)
        self.module.start_from(torch.from_numpy(components).float(), torch.from_numpy(deviation).float())


def _length(
    datamodule: LightningDataModule, max_epochs: int | None, early_stopping: bool, patience: int | None
) -> dict[str, Any]:
    """Return the trainer's arguments that say when training ends, by the number of spots where they were not given."""
    if isinstance(datamodule, SectionSplitter | CorpusDataModule):
        n_obs, n_validation = _sizes(datamodule)
        early_stopping = early_stopping and n_validation > 0
        max_epochs = max_epochs or int(np.clip(_SPOTS_TO_SEE / n_obs, 10, 400))
        patience = patience or max(3, _SPOTS_TO_WAIT // n_obs)
    return {"max_epochs": max_epochs, "early_stopping": early_stopping, "early_stopping_patience": patience or 10}


def _sizes(datamodule: SectionSplitter | CorpusDataModule) -> tuple[int, int]:
    """Return how many spots there are, and how many spots or sections are held out for validation."""
    if isinstance(datamodule, SectionSplitter):
        return datamodule.adata_manager.n_obs, len(datamodule.external_indexing[1])
    return datamodule.n_train, len(datamodule.validation_sections)
