"""PCA of log-normalised expression, optionally smoothed over two rings of neighbours."""

import numpy as np
from anndata import AnnData

from methods._common import log_normalized, neighborhood_mean, pca


def embed(adata: AnnData, seed: int, smooth: bool = False) -> np.ndarray:
    logged = log_normalized(adata).X
    return pca(neighborhood_mean(adata, logged) if smooth else logged)
