"""Sections of any size, written block by block: time depends on the number of counts, not on their values."""

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem

_BLOCK = 2_000  # spots drawn at random; larger sections repeat them in different orders


def section(n_spots: int, n_genes: int, density: float) -> ad.AnnData:
    """Return a section in memory, on a hexagonal lattice."""
    adata = _without_counts(n_spots, n_genes)
    adata.X = sp.vstack([*_blocks(n_spots, n_genes, density)], format="csr")
    return adata


def write_section(path: Path, n_spots: int, n_genes: int, density: float) -> None:
    """Write a section without ever holding all its counts in memory."""
    _without_counts(n_spots, n_genes).write_h5ad(path)
    blocks = _blocks(n_spots, n_genes, density)
    with h5py.File(path, "a") as file:
        if "X" in file:
            del file["X"]
        write_elem(file, "X", next(blocks))
        counts = sparse_dataset(file["X"])
        for block in blocks:
            counts.append(block)


def _without_counts(n_spots: int, n_genes: int) -> ad.AnnData:
    width = round(n_spots**0.5)
    row, column = np.divmod(np.arange(n_spots), width)
    places = np.stack([column + row % 2 / 2, row * 3**0.5 / 2], axis=1) * 100.0
    spots, genes = ([f"{what}{i}" for i in range(n)] for what, n in (("spot", n_spots), ("gene", n_genes)))
    return ad.AnnData(obs=pd.DataFrame(index=spots), var=pd.DataFrame(index=genes), obsm={"spatial": places})


def _blocks(n_spots: int, n_genes: int, density: float) -> Iterator[sp.csr_matrix]:
    rng = np.random.default_rng(0)
    detected = rng.beta(0.3, 0.3 * (1 / density - 1), n_genes)  # a few genes have most of the counts, as in tissue
    dense = rng.random((min(_BLOCK, n_spots), n_genes), dtype=np.float32) < detected
    block = sp.csr_matrix(dense, dtype=np.float32)
    block.data[:] = rng.geometric(0.6, block.nnz)
    for start in range(0, n_spots, _BLOCK):
        yield block[rng.permutation(block.shape[0])[: n_spots - start]]
