"""NichePCA: counts are pooled over each neighbourhood and normalised, followed by PCA."""

import numpy as np
from anndata import AnnData

from methods._common import log_normalized, neighborhood_mean, pca


def embed(adata: AnnData, seed: int) -> np.ndarray:
    niche = AnnData(neighborhood_mean(adata, adata.X))
    return pca(log_normalized(niche).X)
