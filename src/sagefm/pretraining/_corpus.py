"""A corpus: many sections on disk, indexed once and read one at a time."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from sagefm._errors import SECTION_ERRORS, refuse_unknown
from sagefm._logging import logger
from sagefm.data import (
    Normalization,
    SetupKeys,
    Spots,
    make_registry,
    match_genes,
    read_section,
    refuse_duplicates,
    section_spots,
    stamp_of,
)
from sagefm.pretraining._index import SectionRecord, record_of
from sagefm.pretraining._table import PATH, SAMPLE, section_table
from sagefm.pretraining._vocabulary import gene_profile, gene_totals, shared_genes, target_depth


class Corpus:
    """Sections on disk to pretrain on; only a few are in memory at a time, however many there are.

    Every section is read once to build its index entry: spots, genes, total counts, neighbour graph (that of the file,
    or one built as :meth:`sagefm.SAGEFM.setup_anndata` does) and checksum. With `index`, the next call only reads
    files that are new or have changed. Spots without counts are left out. A gene missing from a section is treated as
    missing, not as zero, and does not contribute to any loss or library size.

    Parameters
    ----------
    sections
        Paths, a glob pattern, a folder, or a table with a column `path`: a DataFrame or a CSV file. A table may have a
        column `sample` with the names of the sections (by default the file names), and any others, such as `patient`,
        `licence` or `split`. Relative paths in a CSV file start at its folder. A section is an `.h5ad` file, a `.zarr`
        folder of AnnData, or an output folder of 10x Space Ranger.
    genes
        Names of the genes, in the order of the model; selected by `min_share` by default.
    min_share
        Select the genes with counts in at least this share of the sections; with 1, the genes that all sections share.
    index
        Folder of the index; by default it is only kept in memory.
    on_error
        With `"skip"`, a section that cannot be read or lacks the genes is left out and listed in `report` and in the
        log; with `"raise"`, it raises an error.
    n_jobs
        Processes that read sections for the index.
    layer, sample_key, spatial_key, neighbors_key, gene_symbols
        As in :meth:`sagefm.SAGEFM.setup_anndata`, the same for all sections. Use `gene_symbols` if `var_names` are
        Ensembl identifiers in some files and the column has the names that all share.

    Attributes
    ----------
    table
        One row per section in use: `sample`, `path`, `n_spots`, `n_genes` of the vocabulary, `sha256`, `graph`, and
        the other columns of the given table.
    report
        One row per given section: `sample`, `path`, `status` (`"used"` or `"skipped"`) and `reason`.
    genes
        Gene vocabulary.

    Raises
    ------
    FileNotFoundError
        If there are no sections.
    KeyError
        If the table has no column `path`.
    ValueError
        If several sections have the same name, no section can be used, or no gene is shared.

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
        found = Parallel(n_jobs=n_jobs)(
            delayed(attempt)(on_error, path, record_of, Path(path), self._keys, folder) for path in given[PATH]
        )
        readable = _usable(found)
        shared: dict[bytes, np.ndarray] = {}
        for record in readable:  # one array of names per panel: one per section would be most of the index
            record.genes = shared.setdefault(record.genes.tobytes(), record.genes)
        self.genes = shared_genes(readable, min_share) if genes is None else pd.Index(genes)
        refuse_duplicates(self.genes, "of the given genes", "genes=pd.unique(genes)")
        found = [
            entry if isinstance(entry, str) else attempt(on_error, entry.path, _matched, entry, self.genes)
            for entry in found
        ]
        self.report = _report(given, found)
        self._records = _usable(found)
        known, totals = gene_totals(self._records, self.genes)
        self._profile = gene_profile(known, totals)
        self._target_depth = target_depth(self._records, known, totals, self._profile)
        self.table = given[self.report["status"] == "used"].reset_index(drop=True)
        self.table = self.table.assign(
            n_spots=self.sizes,
            n_genes=known.sum(axis=1),
            sha256=[record.sha256 for record in self._records],
            graph=[record.graph_kind for record in self._records],
        )

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        n_skipped = len(self.report) - len(self)
        return f"Corpus of {len(self)} sections, {self.n_obs:,} spots, {len(self.genes):,} genes; {n_skipped} skipped"

    @property
    def n_obs(self) -> int:
        """Number of spots."""
        return int(self.sizes.sum())

    @property
    def sizes(self) -> np.ndarray:
        """Number of spots of each section, (sections,)."""
        return np.array([len(record.depths) for record in self._records])

    @property
    def registry(self) -> dict[str, Any]:
        """Genes and constants of the normalisation, for `SAGEFM(registry=...)` without an AnnData."""
        depth, profile = self._target_depth, self._profile
        return make_registry(self.genes, target_depth=depth, profile=profile, keys=self._keys, n_obs=self.n_obs)

    @property
    def fingerprint(self) -> dict[str, dict[str, str]]:
        """Checksums of `sections`, by name, each of the file, its graph and the setup keys, and of the `genes`."""
        keys = asdict(self._keys)
        read = [_digest([record.sha256, record.graph_kind, keys]) for record in self._records]
        sections = dict(zip(self.table[SAMPLE], read, strict=True))
        return {"sections": sections, "genes": {"names": _digest(self.genes.tolist())}}

    def require_genes(self, genes: pd.Index) -> None:
        """Raise unless a model's `genes` are those of the corpus, in the same order."""
        if not genes.equals(self.genes):
            raise ValueError(
                f"The corpus has {len(self.genes)} genes and the model {len(genes)}; expected the same genes in the "
                "same order. Make the model by `SAGEFM(registry=corpus.registry)`, or the corpus by "
                "`Corpus(..., genes=model.genes)`."
            )

    def open(self, section: int, normalization: Normalization) -> Spots:
        """Read section number `section`, with the genes in the order of the vocabulary."""
        record = self._records[section]
        if stamp_of(record.path) != record.stamp:
            raise ValueError(f"{record.path} has changed since it was indexed; make the corpus again to index it.")
        adata = read_section(record.path, self._keys)
        return section_spots(adata, record.graph, self._keys, self.genes, normalization)


def _digest(content: list) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def attempt(on_error: str, path: str | Path, function: Callable, *args: Any) -> Any:
    """Call a function that reads or checks the section at `path`; if it fails, return the reason, or raise it."""
    try:
        return function(*args)
    except SECTION_ERRORS as error:
        if on_error == "raise":
            raise ValueError(f"{path} cannot be used: {error}") from error
        return f"{type(error).__name__}: {error}"


def _matched(record: SectionRecord, genes: pd.Index) -> SectionRecord:
    """Return the record; raise if the section has too few of the genes."""
    match_genes(genes, pd.Index(record.genes))
    return record


def _usable(found: Sequence[SectionRecord | str]) -> list[SectionRecord]:
    """Return the records among records and reasons for skipping; raise if there are none."""
    records = [entry for entry in found if isinstance(entry, SectionRecord)]
    if not records:
        raise ValueError(f"No section can be used; the first of {len(found)} failed with {found[0]}")
    return records


def _report(given: pd.DataFrame, found: Sequence[SectionRecord | str]) -> pd.DataFrame:
    """Return the status of each given section and the reason for skipping it, which is also logged."""
    reasons = [entry if isinstance(entry, str) else "" for entry in found]
    for path, reason in zip(given[PATH], reasons, strict=True):
        if reason:
            logger.warning(f"Skipped {path}: {reason}")
    status = ["skipped" if reason else "used" for reason in reasons]
    return given[[SAMPLE, PATH]].assign(status=status, reason=reasons)
