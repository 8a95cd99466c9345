"""Rows of a count matrix are the same whether the matrix is in memory, in a file or lazy."""

from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import sagefm.data._counts
from sagefm.data._counts import counts_of_genes, in_memory, in_model_order, read_rows, row_chunks

COUNTS = np.random.default_rng(0).poisson(0.4, (30, 12)).astype(np.float32)


def stored_in_pieces(counts: np.ndarray, dtype: type) -> sp.csr_matrix:
    """Store each count as two entries, of which SciPy takes the sum."""
    whole = sp.csr_matrix(counts)
    pieces = np.c_[np.ones_like(whole.data), whole.data - 1].ravel().astype(dtype)
    return sp.csr_matrix((pieces, np.repeat(whole.indices, 2), whole.indptr * 2), whole.shape)


def in_half_precision(counts: sp.csr_matrix | sp.csc_matrix) -> sp.csr_matrix | sp.csc_matrix:
    """Return float16 counts: SciPy makes and reads such a matrix, but neither converts to it nor slices it."""
    return type(counts)((counts.data.astype(np.float16), counts.indices, counts.indptr), counts.shape)


def with_unsigned_indices(counts: sp.csr_matrix) -> sp.csr_matrix:
    counts.indices, counts.indptr = counts.indices.astype(np.uint64), counts.indptr.astype(np.uint64)
    return counts


def lazy(counts: np.ndarray, kind: type = np.asarray) -> da.Array:
    return da.from_array(counts, chunks=(7, -1)).map_blocks(kind)


IN_MEMORY = {
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
    "dense": np.array,
    "dense by columns": np.asfortranarray,
    "integers": lambda x: x.astype(np.int64),
    "sparse integers": lambda x: sp.csr_matrix(x.astype(np.int32)),
    "sparse small integers": lambda x: sp.csr_matrix(x.astype(np.uint8)),
    "doubles": lambda x: x.astype(np.float64),
    "half precision": lambda x: x.astype(np.float16),
    "sparse half precision": lambda x: in_half_precision(sp.csr_matrix(x)),
    "CSC half precision": lambda x: in_half_precision(sp.csc_matrix(x)),
    "unsigned indices": lambda x: with_unsigned_indices(sp.csr_matrix(x)),
    "pieces": lambda x: stored_in_pieces(x, np.float32),
    "pieces of small integers": lambda x: stored_in_pieces(x, np.uint8),
    "pieces of small integers by columns": lambda x: stored_in_pieces(x, np.uint8).tocsc(),
}
LAZY = {
    "dask": lazy,
    "dask, two chunks of genes": lambda x: da.from_array(x, chunks=(30, 6)),
    "dask of CSR": lambda x: lazy(x, sp.csr_matrix),
    "dask of CSR arrays": lambda x: lazy(x, sp.csr_array),
    "dask of CSC": lambda x: lazy(x, sp.csc_matrix),
    "dask of small integers": lambda x: lazy(x.astype(np.uint8), sp.csr_matrix),
    "dask of half precision": lambda x: lazy(x.astype(np.float16)),
}
BACKED = {"backed CSR": sp.csr_matrix, "backed CSC": sp.csc_matrix, "backed dense": np.array}


@pytest.fixture(params=[*IN_MEMORY, *LAZY, *BACKED])
def counts(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param not in BACKED:
        yield (IN_MEMORY | LAZY)[request.param](COUNTS)
        return
    ad.AnnData(BACKED[request.param](COUNTS)).write_h5ad(tmp_path / "counts.h5ad")
    adata = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    yield adata.X
    adata.file.close()


@pytest.mark.parametrize(
    "rows", [[0], [4, 5, 6], [20, 3, 11], [7, 7, 2, 7], slice(5, 9), slice(28, 40)], ids=lambda rows: str(rows)
)
def test_rows_are_returned_in_the_requested_order_with_repeats(counts, rows):
    rows = rows if isinstance(rows, slice) else np.array(rows)
    read = read_rows(counts, rows)
    assert (read.format, read.dtype) == ("csr", np.float32)
    assert np.array_equal(read.toarray(), COUNTS[rows])


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_chunks_hold_every_row_once_and_in_order(counts, size, monkeypatch):
    monkeypatch.setattr(sagefm.data._counts, "CHUNK", size)
    chunks = list(row_chunks(counts))
    assert max(chunk.shape[0] for chunk in chunks) == min(size, 30)
    assert np.array_equal(sp.vstack(chunks).toarray(), COUNTS)


def test_backed_and_lazy_matrices_are_distinguished_from_matrices_in_memory(counts, request):
    assert in_memory(counts) == (request.node.callspec.params["counts"] in IN_MEMORY)


@pytest.mark.parametrize(
    "columns",
    [np.arange(12), np.arange(12)[::-1], [3, -1, 0, -1, 11], [-1, -1]],
    ids=["same", "reversed", "some", "none"],
)
def test_columns_are_put_in_the_order_of_the_model_and_missing_genes_are_zero(columns):
    columns = np.array(columns)
    ordered = in_model_order(sp.csr_matrix(COUNTS), columns)
    assert np.array_equal(ordered.toarray(), np.where(columns >= 0, COUNTS[:, columns], 0))


def test_pieces_of_a_count_are_summed_beyond_the_range_of_their_type():
    pieces = sp.csr_matrix((np.array([200, 100], np.uint8), [3, 3], [0, 2]), shape=(1, 12))
    assert read_rows(pieces, slice(0, 1))[0, 3] == 300
    assert counts_of_genes(pieces, np.arange(12))[np.array([0])][0, 3] == 300
    assert next(row_chunks(pieces.tocsc()))[0, 3] == 300


def test_counts_are_put_in_the_order_of_the_model_however_they_are_stored(counts):
    rows, columns = np.array([5, 2, 2, 29]), np.array([3, -1, 0, 11])
    ordered = counts_of_genes(counts, columns)[rows]
    assert np.array_equal(ordered.toarray(), np.where(columns >= 0, COUNTS[rows][:, columns], 0))
