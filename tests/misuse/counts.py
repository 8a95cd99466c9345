"""Rows about counts."""

import anndata as ad
import dask.array as da
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from misuse.table import SAME, Gives, Raises, Row, Warns

import sagefm

FRACTIONS = "values that are not whole numbers.*raw counts.*`layer`"
setup = sagefm.SAGEFM.setup_anndata


def plain(w) -> np.ndarray:
    return w.section().X.toarray()


def normalised(w) -> bool:
    section = w.section()
    sc.pp.normalize_total(section)
    sc.pp.log1p(section)
    return np.isfinite(w.embed(section)).all()


def scaled(w) -> None:
    section = w.section()
    sc.pp.scale(section, zero_center=True)
    w.embed(section)


def with_one(w, value: float):
    counts = plain(w)
    counts[3, 4] = value
    return w.embed(w.with_counts(counts))


def zeroed(w, place) -> ad.AnnData:
    counts = plain(w)
    counts[place] = 0
    return w.with_counts(sp.csr_matrix(counts))


def backed(w) -> bool:
    path = w.folder() / "section.h5ad"
    w.section().write_h5ad(path)
    section = ad.read_h5ad(path, backed="r")
    try:
        return w.is_as_expected(section)
    finally:
        section.file.close()


def dask_counts(w) -> bool:
    return w.is_as_expected(w.with_counts(da.from_array(plain(w), chunks=(20, 60))))


def dask_csr(w) -> bool:
    return w.is_as_expected(w.with_counts(da.from_array(plain(w), chunks=(20, -1)).map_blocks(sp.csr_matrix)))


def read_lazily(w) -> bool:
    path = w.folder() / "section.h5ad"
    w.section().write_h5ad(path)
    return w.is_as_expected(ad.experimental.read_lazy(path))


def small_integers_in_pieces(w) -> bool:
    """One count of 300, stored as two entries that fit into 8 bits."""
    whole = plain(w)
    whole[0, 0] = 300
    counts = sp.csr_matrix(whole)
    data = np.r_[200, 100, counts.data[1:]].astype(np.uint8)
    indices, indptr = np.r_[0, counts.indices], counts.indptr + (np.arange(65) > 0)
    pieces = sp.csr_matrix((data, indices, indptr), counts.shape)
    return np.allclose(w.embed(w.with_counts(pieces)), w.embed(w.with_counts(counts)), atol=1e-5)


def sparse_half_precision(w) -> bool:
    counts = sp.csr_matrix(plain(w))
    return w.is_as_expected(
        w.with_counts(sp.csr_matrix((counts.data.astype(np.float16), counts.indices, counts.indptr), counts.shape))
    )


def unsigned_indices(w) -> bool:
    section = w.section()
    section.X.indices, section.X.indptr = section.X.indices.astype(np.uint64), section.X.indptr.astype(np.uint64)
    return section.X.indices.dtype == np.uint64 and w.is_as_expected(section)


def view_at_setup(w) -> None:
    setup(w.section()[:50])


def backed_view(w, use) -> None:
    path = w.folder() / "section.h5ad"
    w.section().write_h5ad(path)
    section = ad.read_h5ad(path, backed="r")
    try:
        use(section[:50])
    finally:
        section.file.close()


def in_raw_only(w, *, x: bool):
    section = w.section()
    section.raw = section.copy()
    section.X = section.X * 0.3 if x else None
    setup(section)
    return True


def outer_join(w, *, dense: bool) -> bool:
    """Two sections whose panels differ by ten genes."""
    parts = {"A": w.section(), "B": w.section()[:, 10:].copy()}
    for part in parts.values():
        part.X = part.X.toarray() if dense else part.X
    both = ad.concat(parts, label="sample", index_unique="-", join="outer")
    setup(both, sample_key="sample")
    return True


def view_later(w) -> bool:
    part = w.section()
    order = np.arange(64)[::-1]
    return np.allclose(w.embed(part[order]), w.expected[order], atol=1e-5)


def with_duplicate_entries(w) -> bool:
    section = w.section()
    counts = section.X.tocoo()
    data = np.concatenate([counts.data - 1, np.ones_like(counts.data)])
    rows, columns = np.tile(counts.row, 2), np.tile(counts.col, 2)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=64))])
    order = np.argsort(rows, kind="stable")
    section.X = sp.csr_matrix((data[order], columns[order], starts), shape=counts.shape)
    return section.X.nnz == 2 * counts.nnz and w.is_as_expected(section)


def with_stored_zeros(w) -> bool:
    section = w.section()
    counts = sp.csr_matrix(np.where(plain(w) == 0, 99, plain(w)))
    counts.data[counts.data == 99] = 0
    section.X = counts
    return w.is_as_expected(section)


def in_a_layer(w) -> bool:
    section = w.section()
    section.layers["counts"] = section.X.copy()
    sc.pp.normalize_total(section)
    setup(section, layer="counts")
    return np.array_equal(section.layers["counts"].toarray(), plain(w))


def changed_after_setup(w) -> None:
    section = w.section()
    setup(section)
    model = sagefm.SAGEFM(section)
    model.is_trained_ = True
    sc.pp.normalize_total(section)
    sc.pp.log1p(section)
    model.get_latent_representation()


def nothing(w) -> None:
    section = w.section()
    section.X = None
    setup(section)


def text(w) -> None:
    section = w.section()
    counts = plain(w).astype(str).astype(object)
    counts[0, 0] = "many"
    section.X = counts
    setup(section)


def one_row(w) -> bool:
    section = w.section()[:1].copy()
    section.obsp["spatial_connectivities"] = sp.csr_matrix((1, 1))
    w.embed(section)


def many_entries(w) -> bool:
    """Indices of 64 bits, which SciPy uses for 2^31 non-zeros and more."""
    section = w.section()
    section.X.indices, section.X.indptr = section.X.indices.astype(np.int64), section.X.indptr.astype(np.int64)
    return section.X.indices.dtype == np.int64 and w.is_as_expected(section)


ROWS = [
    Row("log-normalised values", normalised, Warns(FRACTIONS, "results nevertheless")),
    Row(
        "scaled values (`scanpy.pp.scale`)",
        scaled,
        Raises(ValueError, "or more negative values; counts must be finite and non-negative.*`layer`"),
    ),
    Row("a negative count", lambda w: with_one(w, -1), Raises(ValueError, "1 or more negative values")),
    Row("a count of NaN", lambda w: with_one(w, np.nan), Raises(ValueError, "1 or more NaN values")),
    Row("an infinite count", lambda w: with_one(w, np.inf), Raises(ValueError, "1 or more infinite values")),
    Row(
        "a count of 2.5",
        lambda w: np.isfinite(with_one(w, 2.5)).all(),
        Warns("has 1 " + FRACTIONS, "results nevertheless"),
    ),
    Row("counts as float64", lambda w: w.is_as_expected(w.with_counts(plain(w).astype(np.float64))), SAME),
    Row("counts as int64", lambda w: w.is_as_expected(w.with_counts(sp.csr_matrix(plain(w).astype(np.int64)))), SAME),
    Row(
        "counts as uint8",
        lambda w: plain(w).max() < 256 and w.is_as_expected(w.with_counts(sp.csr_matrix(plain(w).astype(np.uint8)))),
        SAME,
    ),
    Row("counts as uint8, some stored in pieces whose sum is above 255", small_integers_in_pieces, SAME),
    Row("counts as float16", lambda w: w.is_as_expected(w.with_counts(plain(w).astype(np.float16))), SAME),
    Row("sparse counts as float16", sparse_half_precision, SAME),
    Row("counts by columns (CSC)", lambda w: w.is_as_expected(w.with_counts(sp.csc_matrix(plain(w)))), SAME),
    Row("a sparse array instead of a matrix", lambda w: w.is_as_expected(w.with_counts(sp.csr_array(plain(w)))), SAME),
    Row(
        "counts as COO",
        lambda w: w.with_counts(sp.coo_matrix(plain(w))),
        Raises(ValueError, "Only CSR and CSC matrices are supported"),
    ),
    Row("dense counts", lambda w: w.is_as_expected(w.with_counts(plain(w))), SAME),
    Row(
        "dense counts by columns (Fortran order)",
        lambda w: w.is_as_expected(w.with_counts(np.asfortranarray(plain(w)))),
        SAME,
    ),
    Row("a dask array", dask_counts, SAME),
    Row("a dask array of CSR blocks", dask_csr, SAME),
    Row("a file read with `anndata.experimental.read_lazy`", read_lazily, SAME),
    Row("a backed file", backed, SAME),
    Row("a view at setup", view_at_setup, Raises(ValueError, r"adata\.copy\(\)")),
    Row(
        "a view of a backed file at setup",
        lambda w: backed_view(w, setup),
        Raises(ValueError, r"part of a backed AnnData.*adata = adata\.to_memory\(\)"),
    ),
    Row(
        "a view of a backed file passed to a trained model",
        lambda w: backed_view(w, w.embed),
        Raises(ValueError, r"part of a backed AnnData.*adata = adata\.to_memory\(\)"),
    ),
    Row("a view passed to a trained model", view_later, SAME),
    Row("counts stored as duplicate entries", with_duplicate_entries, SAME),
    Row("stored zeros", with_stored_zeros, SAME),
    Row("indices of 64 bits, as for more than 2^31 non-zeros", many_entries, SAME),
    Row("unsigned indices, as SnapATAC2 writes them", unsigned_indices, SAME),
    Row("counts in a layer, normalised values in `X`", in_a_layer, Gives("the layer is used, and stays unchanged")),
    Row(
        "counts normalised in place after setup",
        changed_after_setup,
        Raises(ValueError, "have changed since setup.*keep the raw counts in a layer"),
    ),
    Row(
        "counts in `adata.raw` only, normalised values in `X`",
        lambda w: in_raw_only(w, x=True),
        Warns(
            r"not whole numbers.*whole numbers in adata\.raw: `adata = adata\.raw\.to_adata\(\)`",
            "results nevertheless",
        ),
    ),
    Row(
        "counts in `adata.raw` only, no `X`",
        lambda w: in_raw_only(w, x=False),
        Raises(ValueError, r"has no X; use the whole numbers in adata\.raw: `adata = adata\.raw\.to_adata\(\)`"),
    ),
    Row(
        "two panels concatenated with `join='outer'`",
        lambda w: outer_join(w, dense=False),
        Warns("of 60 genes have no count in section 'B'.*use `join='inner'`", "results nevertheless"),
    ),
    Row(
        "the same with dense counts",
        lambda w: outer_join(w, dense=True),
        Raises(ValueError, "640 or more NaN values.*use `join='inner'`"),
    ),
    Row("no rows", lambda w: w.embed(w.section()[:0].copy()), Raises(ValueError, "there are no spots")),
    Row("one row, without neighbours", one_row, Raises(ValueError, "has no edges between different spots")),
    Row("no columns", lambda w: w.embed(w.section()[:, :0].copy()), Raises(ValueError, "0 of the model's 60 genes")),
    Row(
        "a spot without counts",
        lambda w: w.embed(zeroed(w, 7)),
        Raises(ValueError, "1 of 64 spots have no counts in X, for example .*filter_cells"),
    ),
    Row(
        "a gene without counts",
        lambda w: np.isfinite(w.embed(zeroed(w, (slice(None), 7)))).all(),
        Gives("finite results: a zero is a measurement"),
    ),
    Row(
        "all counts zero",
        lambda w: w.embed(w.with_counts(np.zeros((64, 60)))),
        Raises(ValueError, "64 of 64 spots have no counts"),
    ),
    Row("no `X`", nothing, Raises(ValueError, "has no X; pass the layer of the raw counts")),
    Row("text among the counts", text, Raises(ValueError, "could not convert string to float: 'many'")),
]
