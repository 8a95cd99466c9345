"""A Lightning data module over a corpus: the same batches for any number of workers and devices, resumable."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule, Trainer
from scvi import settings
from torch.utils.data import DataLoader

from sagefm._errors import MissingKeyError
from sagefm._logging import logger
from sagefm.data import Normalization, Spots, are_near, gene_moments, normalization_of, whole_groups
from sagefm.pretraining._batches import SEED_KEY, BatchOrder, CorpusBatches, ResumableLoader
from sagefm.pretraining._corpus import Corpus
from sagefm.pretraining._schedule import Schedule
from sagefm.pretraining._table import SAMPLE

_SPLITS = ("train", "validation", "test")
_SPOTS_FOR_MOMENTS, _SECTIONS_TO_SAMPLE = 20_000, 64
_OF_CORPUS = {  # what the checkpoint knows of the corpus, and what it means if it differs
    "sections": "had other sections: they were added, removed, changed or reordered, or read with other keys",
    "genes": "had other genes",
    "split": "was split into training, validation and test sections in another way",
}


class CorpusDataModule(LightningDataModule):
    """Batches of a corpus for `SAGEFM.train(datamodule=...)`; sections are read lazily and shuffled in a buffer.

    `seed`, the epoch, `batch_size`, `buffer_size` and `n_shards` determine the order of the batches. Sections are
    distributed over shards anew in each epoch, and each worker of each device reads the sections of its own shards.
    Batch number t comes from shard t modulo `n_shards` and goes to device t modulo the number of devices: with the
    same `n_shards`, one device that accumulates the gradients of two batches does what two devices do. All devices get
    the same number of batches, whatever the sizes of the sections: a shard with too few spots starts again from its
    first spot, a shard with too many drops its last spots, different ones in each epoch. A run resumed from a
    checkpoint continues with the next batch; each batch carries the seed of its masks and dropout.

    Parameters
    ----------
    corpus
        The sections.
    batch_size
        Spots per batch and device.
    buffer_size
        Number of sections over which the spots of a shard are shuffled. Each worker holds one section more than that
        for each of its shards, however large the corpus is.
    n_shards
        Number of shards, a multiple of devices times workers; devices times workers by default. A run can only be
        resumed with the same number.
    num_workers
        Processes per device that read sections and make batches; with 0, the training process does.
    validation_size, test_size
        Approximate share of the spots for validation and for testing, held out as whole sections or groups. Those
        that would exceed the share by far are passed over; a warning gives the real shares if they are far off.
    group_key
        Column of `corpus.table`, such as `patient`; the split keeps sections with the same value together.
    split_key
        Column of `corpus.table` with `"train"`, `"validation"` or `"test"` for each section, instead of shares.
    seed
        Seed of the split and of the order; by default `scvi.settings.seed`, or 0 if that is not set.

    Attributes
    ----------
    train_sections, validation_sections, test_sections
        Numbers of the sections, as rows of `corpus.table`.

    Raises
    ------
    KeyError
        If a column is not in the table.
    ValueError
        If there is nothing to train on, a number is out of range, or the numbers are incompatible.

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

    # The sampler already assigns batches to devices.
    trainer_kwargs = {"use_distributed_sampler": False}

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
        self.corpus, self.normalization = corpus, normalization_of(corpus.registry, "size")
        self.batch_size, self.buffer_size = batch_size, buffer_size
        self.n_shards, self.num_workers = n_shards, num_workers
        self.seed = (settings.seed or 0) if seed is None else seed
        for name, least in (("batch_size", 1), ("buffer_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least {least}.")
        shares = (validation_size, test_size)
        named = _named_split(corpus, split_key) if split_key else _random_split(corpus, group_key, shares, self.seed)
        self._split, parts = named, [np.flatnonzero(named == name) for name in _SPLITS]
        self.train_sections, self.validation_sections, self.test_sections = parts
        if not len(self.train_sections):
            raise ValueError(f"None of the {len(corpus)} sections is left to train on; hold out fewer of them.")

    @property
    def n_spots(self) -> int:
        """Number of spots to train on."""
        return int(self.corpus.sizes[self.train_sections].sum())

    @property
    def n_validation(self) -> int:
        """Number of spots to validate on."""
        return int(self.corpus.sizes[self.validation_sections].sum())

    def connect(self, normalization: Normalization, genes: pd.Index) -> None:
        """Use the model's normalisation for the batches; raise unless its genes are those of the corpus."""
        self.corpus.require_genes(genes)
        self.normalization = normalization

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene on the log scale, each (genes,), from a sample of spots.

        20,000 training spots are sampled, the same number from each of at most 64 sections; a gene is averaged over
        the sections that have it.
        """
        return gene_moments(self._drawn(_SPOTS_FOR_MOMENTS), len(self.corpus.genes))

    def sample(self, n_spots: int) -> torch.Tensor:
        """Return the network's input for at most `n_spots` training spots, (spots, genes), from at most 64 sections."""
        return torch.cat([spots.inputs(rows, spots.units.of(rows)) for spots, rows in self._drawn(n_spots)])

    def _drawn(self, n_spots: int) -> Iterator[tuple[Spots, np.ndarray]]:
        """Yield training sections, each with the rows of the same number of random spots."""
        rng = np.random.default_rng(self.seed)
        sections = rng.permutation(self.train_sections)[:_SECTIONS_TO_SAMPLE]
        for section in sections:
            spots = self.corpus.open(int(section), self.normalization)
            yield spots, rng.permutation(spots.n_obs)[: max(n_spots // len(sections), 1)]

    def train_dataloader(self) -> DataLoader:
        """Return the training batches of this device, starting from the batch that training has reached."""
        n_sections, n_workers, n_shards = len(self.train_sections), self._n_workers, self._resolved_n_shards
        if n_workers < self.num_workers:
            logger.info(f"Using {n_workers} of {self.num_workers} workers: each needs at least one training section.")
        n_readers = self._attached().world_size * max(n_workers, 1)
        if n_shards % n_readers or not 0 < n_shards <= n_sections:
            raise ValueError(
                f"n_shards={n_shards} is not possible: expected a multiple of devices times workers ({n_readers}) that "
                f"is at most the number of training sections ({n_sections}). Change `n_shards` or `num_workers`."
            )
        progress = self._attached().fit_loop.epoch_loop.batch_progress
        return self._loader(self.train_sections, n_shards, self.buffer_size, n_workers, progress)

    @property
    def _n_workers(self) -> int:
        """Number of workers of each device; without `n_shards`, no more than have a section to read."""
        if self.n_shards is not None:
            return self.num_workers
        return min(self.num_workers, max(len(self.train_sections) // self._attached().world_size, 1))

    @property
    def _resolved_n_shards(self) -> int:
        return self._attached().world_size * max(self._n_workers, 1) if self.n_shards is None else self.n_shards

    def val_dataloader(self) -> DataLoader | list:
        """Return the validation batches of this device, the same in every epoch."""
        if not len(self.validation_sections):
            return []
        return self._loader(self.validation_sections, 1, 1, min(self.num_workers, 1))

    def state_dict(self) -> dict[str, Any]:
        """Return what determines the batches, for the checkpoint."""
        order = {name: getattr(self, name) for name in ("batch_size", "buffer_size", "seed")}
        order |= {"devices": self._attached().world_size, "n_shards": self._resolved_n_shards}
        split = dict(zip(self.corpus.table[SAMPLE], self._split.tolist(), strict=True))
        return order | self.corpus.fingerprint | {"split": split}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise if a resumed run would continue with other batches."""
        now = self.state_dict()
        for name, before in state_dict.items():
            if name in _OF_CORPUS:
                _refuse_another_corpus(name, before, now[name])
            elif now[name] != before:
                raise ValueError(
                    f"The run to resume had {name}={before}, this one has {now[name]}: it would continue with other "
                    f"batches. Resume with {name}={before}, or start a new run."
                )

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Seed the masks and the dropout of a training batch with the seed that it carries."""
        seed = batch.pop(SEED_KEY)
        if self._attached().training:
            torch.manual_seed(seed)
        return batch

    def _attached(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("The data module has no trainer; pass it to `SAGEFM.train(datamodule=...)`.")
        return self.trainer

    def _loader(
        self, sections: np.ndarray, n_shards: int, buffer_size: int, n_workers: int, progress: Any = None
    ) -> ResumableLoader:
        trainer = self._attached()
        schedule = Schedule(sections, self.corpus.sizes[sections], self.batch_size, n_shards, buffer_size, self.seed)
        shards_per_reader = max(n_shards // (trainer.world_size * max(n_workers, 1)), 1)
        normalization = copy.deepcopy(self.normalization).cpu()  # for other processes, whatever the network's device
        return ResumableLoader(
            CorpusBatches(self.corpus, normalization, n_open=shards_per_reader * (buffer_size + 1)),
            batch_size=None,
            sampler=BatchOrder(schedule, trainer.global_rank, trainer.world_size, progress),
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _refuse_another_corpus(name: str, before: dict[str, str], now: dict[str, str]) -> None:
    """Raise unless what the checkpoint knows of each section, or of the genes, is the same and in the same order."""
    if list(before.items()) == list(now.items()):
        return
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    examples = f" (for example {differing[0]!r}; {len(differing)} in total)" if differing and name != "genes" else ""
    raise ValueError(
        f"The corpus of the run to resume {_OF_CORPUS[name]}{examples}. This run would continue with other batches. "
        "Resume with the same files and options, or start a new run."
    )


def _column(corpus: Corpus, key: str) -> np.ndarray:
    if key not in corpus.table:
        raise MissingKeyError(f"{key!r} is not a column of the table of sections; found {list(corpus.table)}.")
    values = corpus.table[key]
    if values.isna().any():
        raise ValueError(f"{int(values.isna().sum())} of {len(values)} sections have no {key!r} in the table.")
    return values.astype(str).to_numpy()


def _named_split(corpus: Corpus, key: str) -> np.ndarray:
    names = _column(corpus, key)
    if unknown := sorted(set(names) - set(_SPLITS)):
        raise ValueError(f"Column {key!r} names the splits {unknown}; expected 'train', 'validation' or 'test'.")
    return names


def _random_split(corpus: Corpus, group_key: str | None, shares: tuple[float, float], seed: int) -> np.ndarray:
    if min(shares) < 0 or sum(shares) >= 1:
        raise ValueError(f"validation_size and test_size are {shares}; expected at least 0 each, together below 1.")
    groups = np.arange(len(corpus)) if group_key is None else _column(corpus, group_key)
    parts = whole_groups(groups, corpus.sizes, shares, np.random.default_rng(seed))
    held_out = [np.isin(groups, part) for part in parts]
    found = [float(corpus.sizes[part].sum() / corpus.n_obs) for part in held_out]
    if not are_near(shares, found):
        _warn_of_shares("sections" if group_key is None else f"groups of {group_key!r}", shares, found)
    return np.select(held_out, ["validation", "test"], default="train")


def _warn_of_shares(groups: str, requested: tuple[float, float], found: list[float]) -> None:
    shares = zip(_SPLITS[1:], requested, found, strict=True)
    held_out = " and ".join(f"{real:.2g} instead of {share:.2g} for {name}" for name, share, real in shares if share)
    warnings.warn(
        f"Whole {groups} do not add up to the requested shares of the spots: {held_out}; {1 - sum(found):.2g} are left "
        "for training. Request other shares, add sections, or choose the split of each section with `split_key`.",
        UserWarning,
        stacklevel=4,
    )
