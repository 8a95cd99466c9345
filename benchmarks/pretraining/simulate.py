"""Write a corpus of simulated Visium-like sections: `python benchmarks/pretraining/simulate.py FOLDER --sections 400`.

Spots lie on a hexagonal lattice. Counts are Poisson; their rates depend on the library size of the spot (log-normal,
median 4,500), the share of the gene (log-normal) and ten smooth spatial fields that shift groups of genes. About 15 %
of the entries are non-zero.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from joblib import Parallel, delayed

N_ROWS, N_COLS, N_FIELDS, DEPTH = 50, 50, 10, 4_500
GENE_SD, LOADING_SD = 1.5, 0.4  # natural logarithms; they give about 15 % non-zero entries


def lattice() -> np.ndarray:
    """Return the coordinates of a hexagonal lattice, (spots, 2), with a spacing of 100."""
    row, col = np.divmod(np.arange(N_ROWS * N_COLS), N_COLS)
    return np.stack([100 * (col + 0.5 * (row % 2)), 100 * np.sqrt(3) / 2 * row], axis=1)


def section(n_genes: int, seed: int) -> ad.AnnData:
    """Return one section; genes behave in the same way in all sections."""
    shared, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    log_share = GENE_SD * shared.standard_normal(n_genes)
    loadings = LOADING_SD * shared.standard_normal((N_FIELDS, n_genes))
    places = lattice()
    waves = own.standard_normal((2, N_FIELDS)) / 800
    fields = np.sqrt(2) * np.cos(places @ waves + own.uniform(0, 2 * np.pi, N_FIELDS))
    rates = np.exp((log_share + fields @ loadings).astype(np.float32))
    depths = DEPTH * np.exp(0.5 * own.standard_normal(len(places)))
    rates *= (depths / rates.sum(axis=1))[:, None].astype(np.float32)
    counts = sp.csr_matrix(own.poisson(rates).astype(np.float32))
    names = pd.Index([f"GENE{number:05d}" for number in range(n_genes)])
    spots = pd.DataFrame(index=[f"spot_{number}" for number in range(len(places))])
    return ad.AnnData(counts, obs=spots, var=pd.DataFrame(index=names), obsm={"spatial": places})


def write(file: Path, number: int, n_genes: int, compression: str | None) -> None:
    """Write a section if it does not exist yet."""
    if not file.exists():
        section(n_genes, number).write_h5ad(file, compression=compression)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sections", type=int, default=400)
    parser.add_argument("--genes", type=int, default=14_558)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--compression", choices=["gzip", "lzf"])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files = [arguments.folder / f"section_{number:04d}.h5ad" for number in range(arguments.sections)]
    Parallel(arguments.jobs)(
        delayed(write)(file, number, arguments.genes, arguments.compression) for number, file in enumerate(files)
    )
