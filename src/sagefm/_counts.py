"""Reading rows of a count matrix, wherever it lies: sparse or dense, in memory or backed by a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

# Rows read at a time where a whole matrix is walked: 2,048 spots of 36,601 genes at 15 % density are 90 MB.
CHUNK = 2048


def in_memory(counts: Any) -> bool:
    """Whether the matrix is a NumPy array or a SciPy sparse matrix rather than a view of a file."""
    return isinstance(counts, np.ndarray) or sp.issparse(counts)


def one_value_an_entry(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return the matrix with no entry stored in several pieces, which is legal but would be logged piece by piece."""
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    return counts


def begin_whole(counts: Any) -> bool:
    """Whether the first rows are whole numbers: enough to tell counts from what was made of them."""
    return not bool((read_rows(counts, slice(0, 256)).data % 1).any())


def read_rows(counts: Any, rows: slice | np.ndarray) -> sp.csr_matrix:
    """Return `rows` as CSR float32. Files want row numbers in order and once each, so they get them so."""
    if isinstance(rows, slice) or in_memory(counts):
        return one_value_an_entry(sp.csr_matrix(counts[rows], dtype=np.float32))
    ordered, inverse = np.unique(rows, return_inverse=True)
    return one_value_an_entry(sp.csr_matrix(counts[ordered], dtype=np.float32))[inverse]


def row_chunks(counts: Any) -> Iterator[sp.csr_matrix]:
    """Walk over the matrix from the first row to the last."""
    if sp.issparse(counts):
        counts = counts.tocsr()
    for start in range(0, counts.shape[0], CHUNK):
        yield read_rows(counts, slice(start, start + CHUNK))
