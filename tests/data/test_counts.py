"""Rows of a count matrix are the same whether the matrix is in memory or in a file."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sagefm.data._counts
from sagefm.data._counts import in_memory, in_model_order, read_rows, row_chunks

COUNTS = np.random.default_rng(0).poisson(0.4, (30, 12)).astype(np.float32)
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
}
BACKED = {"backed CSR": sp.csr_matrix, "backed CSC": sp.csc_matrix, "backed dense": np.array}


@pytest.fixture(params=[*IN_MEMORY, *BACKED])
def counts(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param in IN_MEMORY:
        yield IN_MEMORY[request.param](COUNTS)
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


def test_backed_matrices_are_distinguished_from_matrices_in_memory(counts, request):
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
