"""STAGATE with the settings of its tutorial: 3,000 variable genes, 512 and 30 units, 6 nearest neighbours."""

import numpy as np
from anndata import AnnData
from STAGATE_pyG import Cal_Spatial_Net, train_STAGATE

from methods._common import log_normalized


def embed(adata: AnnData, seed: int) -> np.ndarray:
    adata = log_normalized(adata, n_top_genes=3000)
    Cal_Spatial_Net(adata, k_cutoff=6, model="KNN", verbose=False)
    train_STAGATE(adata, random_seed=seed, verbose=False, device="cpu")
    return adata.obsm["STAGATE"]
