"""Count matrices, in memory, backed by a file or lazy: read by rows, checked, and put in the model's gene order."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scvi import settings

# Rows read at a time when a whole matrix is read: 2,048 spots of 36,601 genes at 15 % density are 90 MB.
CHUNK = 2048
OUTER_JOIN = (
    "If sections with different panels were concatenated with `join='outer'`, genes that a section did not measure "
    "became NaN, or zeros in a sparse matrix: use `join='inner'`, or train on the files of the sections with "
    "`sagefm.pretraining.Corpus`, and pass one section at a time to the trained model."
)


def in_memory(counts: Any) -> bool:
    """Whether the matrix is a NumPy array or a SciPy sparse matrix rather than a view of a file."""
    return isinstance(counts, np.ndarray) or sp.issparse(counts)


def _is_dask(matrix: Any) -> bool:
    return hasattr(matrix, "compute")


def computed(matrix: Any) -> Any:
    """Return a dask array as the matrix that it stands for, and any other matrix as it is."""
    return matrix.compute() if _is_dask(matrix) else matrix


def as_csr(counts: Any) -> sp.csr_matrix:
    """Return a matrix of any kind and type as CSR float32, with duplicate entries summed.

    Duplicates are legal, but each would be logged on its own. They are summed as float32: small integers would wrap
    round, and SciPy does not compute with float16.
    """
    counts = computed(counts)
    if sp.issparse(counts):
        counts = counts.astype(np.float32, copy=False)
    counts = sp.csr_matrix(counts, dtype=np.float32)
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
        return as_csr(_sliceable(counts)[rows])
    ordered, inverse = np.unique(rows, return_inverse=True)
    return as_csr(counts[ordered])[inverse]


def _sliceable(counts: Any) -> Any:
    """Return the matrix in types that SciPy can slice: no float16, no unsigned indices (as SnapATAC2 writes them)."""
    if counts.dtype == np.float16 and (sp.issparse(counts) or _is_dask(counts)):
        counts = counts.astype(np.float32)
    if sp.issparse(counts) and counts.indices.dtype.kind == "u":
        counts = type(counts)((counts.data, counts.indices, counts.indptr), shape=counts.shape)
    return counts


def row_chunks(counts: Any) -> Iterator[sp.csr_matrix]:
    """Iterate over the matrix in chunks of rows."""
    counts = _sliceable(counts)
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
    """Counts in a file or a dask array, read by rows and put in the model's gene order.

    Parameters
    ----------
    source
        Backed matrix or dask array, (spots, genes of the section).
    columns
        Column of each gene of the model in `source`, or -1.
    """

    def __init__(self, source: Any, columns: np.ndarray) -> None:
        self._source, self._columns = source, columns

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        return in_model_order(read_rows(self._source, rows), self._columns)


def counts_of_genes(counts: Any, columns: np.ndarray) -> sp.csr_matrix | BackedCounts:
    """Put counts in memory in the model's gene order now, and all others when they are read."""
    counts = _sliceable(counts)
    if not in_memory(counts):
        return BackedCounts(counts, columns)
    return in_model_order(as_csr(counts), columns)


def checked_totals(
    counts: Any,
    where: str,
    *,
    sections: np.ndarray | None = None,
    advice: Callable[[], str] = lambda: "pass the layer of the raw counts as `layer`",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the total of every spot, (n,), and of every gene in every section, (sections, genes).

    Raise for values that cannot be counts. `sections` are numbers, by default one for all spots; `advice` returns
    where the raw counts may be.
    """
    numbers = np.zeros(counts.shape[0], dtype=int) if sections is None else sections
    depths, totals, n_fractions = [], np.zeros((numbers.max(initial=0) + 1, counts.shape[1])), 0
    for start, chunk in enumerate(row_chunks(counts)):
        _refuse_impossible(chunk.data, where, advice)
        n_fractions += int((chunk.data % 1 != 0).sum())
        depths.append(np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel())
        _add_totals(totals, numbers[start * CHUNK : (start + 1) * CHUNK], chunk)
    if not depths:
        raise ValueError(f"{where} has shape {counts.shape}: there are no spots.")
    if n_fractions:
        warnings.warn(
            f"{where} has {n_fractions} values that are not whole numbers. SAGEFM expects raw counts and normalises "
            f"them itself; if these are normalised values, {advice()}.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
    return np.concatenate(depths), totals


def _add_totals(totals: np.ndarray, numbers: np.ndarray, counts: sp.csr_matrix) -> None:
    """Add the counts of some spots, (n, genes), to the totals of their sections, (sections, genes)."""
    for number in np.unique(numbers):
        members = numbers == number
        total = (counts if members.all() else counts[members]).sum(axis=0, dtype=np.float64)
        totals[number] += np.asarray(total).ravel()


def _refuse_impossible(values: np.ndarray, where: str, advice: Callable[[], str]) -> None:
    for what, wrong in (("NaN", np.isnan), ("infinite", np.isinf), ("negative", lambda x: x < 0)):
        if n_wrong := int(wrong(values).sum()):
            remedy = advice()
            raise ValueError(
                f"{where} has {n_wrong} or more {what} values; counts must be finite and non-negative. "
                f"{remedy[0].upper()}{remedy[1:]}.{' ' + OUTER_JOIN if what == 'NaN' else ''}"
            )
