"""A corpus: many sections on disk, known by their index, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from sagefm._errors import SECTION_ERRORS, refuse_unknown
from sagefm._logging import logger
from sagefm.data import (
    GeneMoments,
    Normalization,
    SetupKeys,
    Spots,
    make_registry,
    match_genes,
    read_section,
    refuse_duplicates,
    section_spots,
    sections_of,
    stamp_of,
)
from sagefm.pretraining._index import SectionRecord, record_of
from sagefm.pretraining._table import PATH, SAMPLE, section_table
from sagefm.pretraining._vocabulary import gene_profile, gene_totals, shared_genes, target_depth


class Corpus:
    """Sections on disk to pretrain on: a few at a time are in memory, however many there are.

    Every section is read once to be indexed: its spots, genes and totals, its neighbour graph (that of the file, or
    one built as :meth:`sagefm.SAGEFM.setup_anndata` does) and its checksum. With `index` the next call reads only
    files that are new or have changed. Spots without counts are left out. A gene that a section lacks is known to be
    missing: it is no zero, and no part of any loss or library size.

    Parameters
    ----------
    sections
        Paths, a glob pattern, a folder, or a table with a column `path`: a DataFrame or a CSV file. A table may have a
        column `sample` with names of the sections (by default the names of the files), and any others, such as
        `patient`, `licence` or `split`; relative paths of a CSV file start at its folder. A section is an `.h5ad` file,
        a `.zarr` folder of AnnData, or a folder that 10x Space Ranger wrote.
    genes
        Names of the genes, in the model's order; by default those that `min_share` tells.
    min_share
        Take the genes with counts in at least this share of the sections; with 1, those that all have.
    index
        Folder of the index; by default it is kept in memory alone.
    on_error
        `"skip"` leaves out a section that cannot be read or lacks the genes, with a line in `report` and in the log;
        `"raise"` stops.
    n_jobs
        Processes that read sections for the index.
    layer, sample_key, spatial_key, neighbors_key, gene_symbols
        As in :meth:`sagefm.SAGEFM.setup_anndata`, for every section alike. Give `gene_symbols` where `var_names` are
        Ensembl identifiers in some files and the column has the names that all share.

    Attributes
    ----------
    table
        One row for each section in use: `sample`, `path`, `n_spots`, `n_genes` of the vocabulary, `sha256`, `graph`,
        and the other columns that were given.
    report
        One row for each section given: `sample`, `path`, `status` (`"used"` or `"skipped"`) and `reason`.
    genes
        Gene vocabulary.

    Raises
    ------
    FileNotFoundError
        If there are no sections.
    KeyError
        If the table has no column `path`.
    ValueError
        If names of sections stand twice, no section can be used or none of the genes is shared.

    Examples
    --------
    >>> import sagefm
    >>> folder = getfixture("tmp_path")
    >>> for seed in range(3):
    ...     section = sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed)
    ...     section.write_h5ad(folder / f"section_{seed}.h5ad")
    >>> corpus = sagefm.pretraining.Corpus(folder)
    >>> len(corpus), corpus.n_obs
    (3, 144)
    >>> model = sagefm.SAGEFM(registry=corpus.registry)
    """

    def __init__(
        self,
        sections: str | Path | Iterable[str | Path] | pd.DataFrame,
        *,
        genes: Sequence[str] | pd.Index | None = None,
        min_share: float = 0.5,
        index: str | Path | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        n_jobs: int = 1,
        layer: str | None = None,
        sample_key: str | None = None,
        spatial_key: str = "spatial",
        neighbors_key: str = "spatial",
        gene_symbols: str | None = None,
    ) -> None:
        refuse_unknown("on_error", on_error, ("skip", "raise"))
        self.on_error = on_error
        self._keys = SetupKeys(layer, sample_key, spatial_key, neighbors_key, gene_symbols)
        given = section_table(sections)
        folder = None if index is None else Path(index).expanduser()
        found = Parallel(n_jobs=n_jobs)(delayed(self._try_to_index)(Path(path), folder) for path in given[PATH])
        found = _with_shared_names(found)
        reasons = [reason for _, reason in found]
        readable = [record for record, _ in found if record is not None]
        self.genes = pd.Index(genes) if genes is not None else shared_genes(self._some(readable, reasons), min_share)
        refuse_duplicates(self.genes, "of the given genes", "genes=pd.unique(genes)")
        reasons = [why if record is None else self._gene_mismatch(record) for record, why in found]
        self._report(given, reasons)
        self._records = self._some(
            [record for (record, _), why in zip(found, reasons, strict=True) if record and not why], reasons
        )
        self._known, self._totals = self._count_genes()
        self.table = self._describe(given[[not why for why in reasons]])

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        skipped = int((self.report["status"] == "skipped").sum())
        return f"Corpus of {len(self)} sections, {self.n_obs:,} spots, {len(self.genes):,} genes; {skipped} skipped"

    @property
    def n_obs(self) -> int:
        """Number of spots."""
        return int(self.sizes.sum())

    @property
    def sizes(self) -> np.ndarray:
        """Number of spots of each section, (sections,)."""
        return np.array([record.n_spots for record in self._records])

    @property
    def registry(self) -> dict[str, Any]:
        """What `SAGEFM(registry=...)` wants: the genes and the constants of the normalisation, without an AnnData."""
        profile = gene_profile(self._known, self._totals)
        depth = target_depth(self._records, self._known, self._totals, profile)
        return make_registry(self.genes, target_depth=depth, profile=profile, keys=self._keys, n_obs=self.n_obs)

    def require_genes(self, genes: pd.Index) -> None:
        """Raise unless a model's `genes` are those of the corpus, in the same order."""
        if not genes.equals(self.genes):
            raise ValueError(
                f"The corpus has {len(self.genes)} genes and the model {len(genes)}, not the same in the same order. "
                "Make the model by `SAGEFM(registry=corpus.registry)`, or the corpus by "
                "`Corpus(..., genes=model.genes)`."
            )

    def open(self, section: int, normalization: Normalization) -> Spots:
        """Read section number `section`, genes in the order of the vocabulary."""
        record = self._records[section]
        if stamp_of(record.path) != (record.size, record.modified):
            raise ValueError(f"{record.path} has changed since it was indexed; index it again.")
        adata = read_section(record.path, self._keys)
        return section_spots(adata, record.graph, sections_of(adata, self._keys), self.genes, normalization)

    def gene_moments(
        self,
        normalization: Normalization,
        sections: Sequence[int] | np.ndarray,
        *,
        n_spots: int = 20_000,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene on the log scale, each (genes,), from a sample of spots.

        At most 64 sections are read, as many spots from each; a gene is averaged over the sections that have it.
        """
        sums = GeneMoments(1, len(self.genes))
        for spots, rows in self._drawn(normalization, sections, n_spots, seed):
            spots.add_to(sums, rows)
        return sums.of_first()

    def sample(
        self, normalization: Normalization, sections: Sequence[int] | np.ndarray, *, n_spots: int, seed: int = 0
    ) -> torch.Tensor:
        """Return what the network reads of some spots, (spots, genes), as many from each of at most 64 sections."""
        drawn = self._drawn(normalization, sections, n_spots, seed)
        return torch.cat([spots.inputs(rows, spots.units.of(rows)) for spots, rows in drawn])

    def _drawn(
        self, normalization: Normalization, sections: Sequence[int] | np.ndarray, n_spots: int, seed: int
    ) -> Iterator[tuple[Spots, np.ndarray]]:
        """Yield at most 64 sections, each with as many spots drawn from it as from the others."""
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(np.asarray(sections))[:64]
        for section in chosen:
            spots = self.open(int(section), normalization)
            yield spots, rng.permutation(spots.n_obs)[: max(n_spots // len(chosen), 1)]

    def _try_to_index(self, path: Path, folder: Path | None) -> tuple[SectionRecord | None, str]:
        try:
            return record_of(path, self._keys, folder), ""
        except SECTION_ERRORS as error:
            if self.on_error == "raise":
                raise ValueError(f"{path} cannot be used: {error}") from error
            return None, f"{type(error).__name__}: {error}"

    def _gene_mismatch(self, record: SectionRecord) -> str:
        """Say why a section has too few of the genes; nothing where it has enough."""
        try:
            match_genes(self.genes, pd.Index(record.genes))
        except ValueError as error:
            if self.on_error == "raise":
                raise ValueError(f"{record.path} cannot be used: {error}") from error
            return str(error)
        return ""

    def _some(self, records: list[SectionRecord], reasons: list[str]) -> list[SectionRecord]:
        if not records:
            why = next(reason for reason in reasons if reason)
            raise ValueError(f"None of the {len(reasons)} sections can be used; the first: {why}")
        return records

    def _report(self, given: pd.DataFrame, reasons: list[str]) -> None:
        self.report = given[[SAMPLE, PATH]].assign(
            status=["skipped" if why else "used" for why in reasons], reason=reasons
        )
        for path, why in zip(given[PATH], reasons, strict=True):
            if why:
                logger.warning(f"Skipped {path}: {why}")

    def _count_genes(self) -> tuple[np.ndarray, np.ndarray]:
        known, totals = zip(*(gene_totals(record, self.genes) for record in self._records), strict=True)
        return np.array(known), np.array(totals)

    def _describe(self, given: pd.DataFrame) -> pd.DataFrame:
        return given.reset_index(drop=True).assign(
            n_spots=self.sizes,
            n_genes=self._known.sum(axis=1),
            sha256=[record.sha256 for record in self._records],
            graph=[record.graph_kind for record in self._records],
        )


def _with_shared_names(found: list[tuple[SectionRecord | None, str]]) -> list[tuple[SectionRecord | None, str]]:
    """Let sections of one panel share one array of names: of hundreds, those arrays would be most of the index."""
    arrays: dict[bytes, np.ndarray] = {}
    return [
        (record and replace(record, genes=arrays.setdefault(record.genes.tobytes(), record.genes)), reason)
        for record, reason in found
    ]
