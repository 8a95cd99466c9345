"""Niches of squidpy: labels, not a representation."""

import numpy as np
import squidpy as sq
from anndata import AnnData

from methods._common import log_normalized, pca


def embed(adata: AnnData, seed: int) -> np.ndarray:
    adata.obsm["X_pca"] = pca(log_normalized(adata).X)
    sq.gr.calculate_niche(
        adata,
        flavor="cellcharter",
        distance=3,
        aggregation="mean",
        n_components=int(adata.uns["n_domains"]),
        random_state=seed,
        use_rep="X_pca",
    )
    (key,) = [key for key in adata.obs if "niche" in key]
    return adata.obs[key].astype("category").cat.codes.to_numpy()
