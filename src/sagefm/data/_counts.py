"""Count matrices, in memory or backed by a file: read by rows, checked, and put in the model's gene order."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scvi import settings

# Rows read at a time when a whole matrix is read: 2,048 spots of 36,601 genes at 15 % density are 90 MB.
CHUNK = 2048


def in_memory(counts: Any) -> bool:
    """Whether the matrix is a NumPy array or a SciPy sparse matrix rather than a view of a file."""
    return isinstance(counts, np.ndarray) or sp.issparse(counts)


def sum_duplicates(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return the matrix with duplicate entries summed; they are legal, but each would be logged on its own."""
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    return counts


def looks_like_counts(counts: Any) -> bool:
    """Whether the first 256 rows hold whole numbers only."""
    return not bool((read_rows(counts, slice(0, 256)).data % 1).any())


def read_rows(counts: Any, rows: slice | np.ndarray) -> sp.csr_matrix:
    """Return `rows` as CSR float32; of a backed matrix, only sorted and unique rows can be read."""
    if isinstance(rows, slice) or in_memory(counts):
        return sum_duplicates(sp.csr_matrix(counts[rows], dtype=np.float32))
    ordered, inverse = np.unique(rows, return_inverse=True)
    return sum_duplicates(sp.csr_matrix(counts[ordered], dtype=np.float32))[inverse]


def row_chunks(counts: Any) -> Iterator[sp.csr_matrix]:
    """Iterate over the matrix in chunks of rows."""
    if sp.issparse(counts):
        counts = counts.tocsr()
    for start in range(0, counts.shape[0], CHUNK):
        yield read_rows(counts, slice(start, start + CHUNK))


def in_model_order(counts: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return counts with the model's genes as columns; `columns` is each gene's column in `counts`, or -1."""
    if np.array_equal(columns, np.arange(counts.shape[1])):
        return counts
    known = np.flatnonzero(columns >= 0)
    counts = counts[:, columns[known]]
    return sp.csr_matrix((counts.data, known[counts.indices], counts.indptr), shape=(counts.shape[0], len(columns)))


class BackedCounts:
    """Counts in a file, read by rows and put in the model's gene order.

    Parameters
    ----------
    source
        Backed matrix, (spots, genes of the section).
    columns
        Column of each gene of the model in `source`, or -1.
    """

    def __init__(self, source: Any, columns: np.ndarray) -> None:
        self._source, self._columns = source, columns

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        return in_model_order(read_rows(self._source, rows), self._columns)


def counts_of_genes(counts: Any, columns: np.ndarray) -> sp.csr_matrix | BackedCounts:
    """Put counts in memory in the model's gene order now, and backed counts where they are read."""
    if not in_memory(counts):
        return BackedCounts(counts, columns)
    return in_model_order(sum_duplicates(sp.csr_matrix(counts)), columns)


def checked_totals(counts: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the total of every spot and of every gene; raise for values that cannot be counts."""
    depths, gene_totals, n_fractions = [], np.zeros(counts.shape[1]), 0
    for chunk in row_chunks(counts):
        _refuse_impossible(chunk.data, where)
        n_fractions += int((chunk.data % 1 != 0).sum())
        depths.append(np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel())
        gene_totals += np.asarray(chunk.sum(axis=0, dtype=np.float64)).ravel()
    if not depths:
        raise ValueError(f"{where} has shape {counts.shape}: there are no spots.")
    if n_fractions:
        warnings.warn(
            f"{where} has {n_fractions} values that are not whole numbers. SAGEFM expects raw counts and normalises "
            "them itself; if these are normalised values, pass the layer of the raw counts as `layer`.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
    return np.concatenate(depths), gene_totals


def _refuse_impossible(values: np.ndarray, where: str) -> None:
    for what, wrong in (("NaN", np.isnan), ("infinite", np.isinf), ("negative", lambda x: x < 0)):
        if n_wrong := int(wrong(values).sum()):
            raise ValueError(
                f"{where} has {n_wrong} or more {what} values; counts must be finite and non-negative. "
                "Pass the layer of the raw counts as `layer`."
            )
