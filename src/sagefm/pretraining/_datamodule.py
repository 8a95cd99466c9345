"""A Lightning data module over a corpus: the same batches whatever the number of workers and devices, resumable."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule, Trainer
from scvi import settings
from torch.utils.data import DataLoader

from sagefm._errors import MissingKeyError
from sagefm._logging import logger
from sagefm.data import Normalization, normalization_of, whole_groups
from sagefm.pretraining._batches import SEED_KEY, Batch, CorpusBatches, ResumableLoader, StepSampler
from sagefm.pretraining._corpus import Corpus


class CorpusDataModule(LightningDataModule):
    """Batches of a corpus for `SAGEFM.train(datamodule=...)`, sections read lazily and mixed over a buffer.

    The order of the batches follows from `seed`, the epoch, `batch_size`, `buffer_size` and `n_shards`. Sections are
    dealt to shards anew in every epoch; each worker of each device reads the sections of its own shards. Batch number
    t comes from shard t modulo `n_shards` and goes to device t modulo the number of devices: so with the same
    `n_shards` one device that accumulates the gradients of two batches does what two devices do. All devices get the
    same number of batches, whatever the sizes of the sections: a shard that runs short begins again, one that has more
    drops the rest, others in every epoch. A run resumed from a checkpoint goes on with the batch that came next; masks
    and dropout follow from the batch.

    Parameters
    ----------
    corpus
        The sections.
    batch_size
        Spots in a batch of one device.
    buffer_size
        Sections that the spots of a shard are mixed over. Each worker holds one more than that for each of its shards,
        whatever the size of the corpus.
    n_shards
        Parts that the sections are dealt to: a multiple of devices times workers; by default just that.
    num_workers
        Processes for each device that read sections and make batches; with 0 the training process does.
    validation_size, test_size
        Share of the spots to validate on and to hold out, about, in whole sections or groups.
    group_key
        Column of `corpus.table` whose values are kept together by the split, such as `patient`.
    split_key
        Column of `corpus.table` with `"train"`, `"validation"` or `"test"` for each section, instead of shares.
    seed
        Seed of the split and of the order; `scvi.settings.seed`, or else 0, by default.

    Attributes
    ----------
    train_sections, validation_sections, test_sections
        Numbers of the sections, as rows of `corpus.table`.

    Raises
    ------
    KeyError
        If a column is not in the table.
    ValueError
        If there is nothing to train on, or the numbers do not go together.

    Examples
    --------
    >>> import sagefm
    >>> folder = getfixture("tmp_path")
    >>> for seed in range(4):
    ...     section = sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed)
    ...     section.write_h5ad(folder / f"section_{seed}.h5ad")
    >>> corpus = sagefm.pretraining.Corpus(folder)
    >>> data = sagefm.pretraining.CorpusDataModule(corpus, batch_size=16, validation_size=0.25)
    >>> model = sagefm.SAGEFM(registry=corpus.registry)
    >>> model.train(max_epochs=1, datamodule=data, enable_progress_bar=False)
    >>> model.is_trained_
    True
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        batch_size: int = 128,
        buffer_size: int = 4,
        n_shards: int | None = None,
        num_workers: int = 0,
        validation_size: float = 0.1,
        test_size: float = 0.0,
        group_key: str | None = None,
        split_key: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        numbers = {"batch_size": batch_size, "buffer_size": buffer_size, "num_workers": num_workers}
        for name, value in numbers.items():
            if value < (least := int(name != "num_workers")):
                raise ValueError(f"{name}={value!r} must be at least {least}.")
        self.corpus, self.normalization = corpus, normalization_of(corpus.registry, "size")
        self.batch_size, self.buffer_size = batch_size, buffer_size
        self.n_shards, self.num_workers = n_shards, num_workers
        self.seed = (settings.seed or 0) if seed is None else seed
        parts = (
            _named_split(_column(corpus, split_key))
            if split_key
            else _random_split(corpus, group_key, (validation_size, test_size), self.seed)
        )
        self.train_sections, self.validation_sections, self.test_sections = parts
        if not len(self.train_sections):
            raise ValueError(f"Of {len(corpus)} sections none is left to train on.")

    # Its batches know of the devices.
    trainer_kwargs = MappingProxyType({"use_distributed_sampler": False})

    @property
    def n_spots(self) -> int:
        """Number of spots to train on."""
        return int(self.corpus.sizes[self.train_sections].sum())

    @property
    def n_validation(self) -> int:
        """Number of spots to validate on."""
        return int(self.corpus.sizes[self.validation_sections].sum())

    def connect(self, normalization: Normalization, genes: pd.Index) -> None:
        """Take the model's normalisation, for batches on its scale; raise unless its genes are those of the corpus."""
        self.corpus.require_genes(genes)
        self.normalization = normalization

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene over a sample of the training spots, each (genes,)."""
        return self.corpus.gene_moments(self.normalization, self.train_sections, seed=self.seed)

    def sample(self, n_spots: int) -> torch.Tensor:
        """Return the network's input for at most `n_spots` training spots, (spots, genes)."""
        return self.corpus.sample(self.normalization, self.train_sections, n_spots=n_spots, seed=self.seed)

    def train_dataloader(self) -> DataLoader:
        """Return the batches of this device, from where training has come to."""
        trainer = self._attached()
        rank, world_size = trainer.global_rank, trainer.world_size
        num_workers = self._workers(world_size)
        n_readers = world_size * max(num_workers, 1)
        n_shards = n_readers if self.n_shards is None else self.n_shards
        self._check_shards(n_shards, n_readers)
        batches = self._batches(self.train_sections, n_shards, self.buffer_size, n_shards // n_readers)
        progress = trainer.fit_loop.epoch_loop.batch_progress
        return self._loader(batches, StepSampler(len(batches), rank, world_size, progress), num_workers)

    def val_dataloader(self) -> DataLoader | list:
        """Return the validation batches of this device, always the same."""
        if not len(self.validation_sections):
            return []
        trainer = self._attached()
        rank, world_size = trainer.global_rank, trainer.world_size
        batches = self._batches(self.validation_sections, 1, 1, 1)
        n_batches = max(len(batches) // world_size, 1) * world_size
        return self._loader(batches, StepSampler(n_batches, rank, world_size), min(self.num_workers, 1))

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of the batches follows from, for the checkpoint."""
        order = {name: getattr(self, name) for name in ("batch_size", "buffer_size", "seed")}
        return order | {"devices": self._attached().world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise if a run that is resumed would go on with other batches."""
        now = self.state_dict()
        for name, before in state_dict.items():
            if now[name] != before:
                raise ValueError(
                    f"The run that is resumed had {name}={before}, and this one has {now[name]}: it would go on with "
                    f"other batches. Resume with {name}={before}, or begin anew."
                )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed the masks and the dropout that come next with the seed of the batch."""
        seed = batch.pop(SEED_KEY)
        if self._attached().training:
            torch.manual_seed(seed)
        return batch

    def _attached(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("The data module has no trainer; pass it to `SAGEFM.train(datamodule=...)`.")
        return self.trainer

    def _workers(self, world_size: int) -> int:
        """Return the number of workers of a device: no more than there are sections for, where that is free."""
        most = len(self.train_sections) // world_size
        if self.n_shards is None and self.num_workers > max(most, 1):
            logger.info(f"Of {self.num_workers} workers, the training sections keep {max(most, 1)} busy.")
            return max(most, 1)
        return self.num_workers

    def _check_shards(self, n_shards: int, n_readers: int) -> None:
        n_sections = len(self.train_sections)
        if n_shards % n_readers or n_shards > n_sections:
            raise ValueError(
                f"n_shards={n_shards} does not do: it must be a multiple of devices times workers ({n_readers}), and "
                f"at most the number of training sections ({n_sections}). Change `n_shards` or `num_workers`."
            )

    def _batches(self, sections: np.ndarray, n_shards: int, buffer_size: int, n_local: int) -> CorpusBatches:
        return CorpusBatches(
            self.corpus,
            sections,
            copy.deepcopy(self.normalization).cpu(),  # for other processes, whatever device the network is on
            batch_size=self.batch_size,
            n_shards=n_shards,
            buffer_size=buffer_size,
            seed=self.seed,
            n_held=n_local * (buffer_size + 1),
        )

    def _loader(self, batches: CorpusBatches, sampler: StepSampler, num_workers: int) -> ResumableLoader:
        return ResumableLoader(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _column(corpus: Corpus, key: str) -> np.ndarray:
    if key not in corpus.table:
        raise MissingKeyError(f"{key!r} is not a column of the table of sections; it has {list(corpus.table)}.")
    values = corpus.table[key]
    if values.isna().any():
        raise ValueError(f"{int(values.isna().sum())} of {len(values)} sections have no {key!r} in the table.")
    return values.astype(str).to_numpy()


def _named_split(names: np.ndarray) -> tuple[np.ndarray, ...]:
    known = ("train", "validation", "test")
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"The split names {unknown}; it is 'train', 'validation' or 'test'.")
    return tuple(np.flatnonzero(names == name) for name in known)


def _random_split(
    corpus: Corpus, group_key: str | None, shares: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(shares) < 0 or sum(shares) >= 1:
        raise ValueError(f"validation_size and test_size are {shares}: each at least 0, together below 1.")
    groups = np.arange(len(corpus)) if group_key is None else _column(corpus, group_key)
    held_out = whole_groups(groups, corpus.sizes, shares, np.random.default_rng(seed))
    validation, test = (np.flatnonzero(np.isin(groups, names)) for names in held_out)
    return np.setdiff1d(np.arange(len(corpus)), np.union1d(validation, test)), validation, test
