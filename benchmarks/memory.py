"""Peak memory of embedding a section of 3,000 spots and 36,601 genes, beyond that of the loaded section.

python benchmarks/memory.py
"""

import time
import warnings

import anndata as ad
import numpy as np
import scipy.sparse as sp
from _memory import PeakMemory

import sagefm

warnings.simplefilter("ignore")
N_SPOTS, N_GENES, DENSITY = 3_000, 36_601, 0.1


def whole_transcriptome_section() -> ad.AnnData:
    """Return random counts on a hexagonal lattice; memory does not depend on the values of the counts."""
    tissue = sagefm.datasets.simulated_tissue(75, 60, n_genes=200)
    tissue = tissue[:N_SPOTS]
    rng = np.random.default_rng(0)
    counts = sp.random(tissue.n_obs, N_GENES, DENSITY, "csr", np.float32, rng, data_rvs=lambda n: rng.integers(1, 9, n))
    return ad.AnnData(counts, obs=tissue.obs.copy(), obsm={"spatial": tissue.obsm["spatial"].copy()})


if __name__ == "__main__":
    adata = whole_transcriptome_section()
    size = sum(part.nbytes for part in (adata.X.data, adata.X.indices, adata.X.indptr))
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, enable_progress_bar=False)
    model.get_latent_representation(indices=np.arange(10))
    for name, call in {
        "get_latent_representation": model.get_latent_representation,
        "get_masked_recovery": model.get_masked_recovery,
    }.items():
        with PeakMemory() as memory:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        print(
            f"{name}: {adata.shape}, AnnData {size / 2**30:.2f} GiB, "
            f"{memory.extra / 2**30:.2f} GiB beyond it, {seconds:.1f} s"
        )
