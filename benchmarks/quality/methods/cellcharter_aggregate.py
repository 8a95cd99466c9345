"""CellCharter: principal components of a spot, concatenated with their means over its first to third ring."""

import cellcharter as cc
import numpy as np
import squidpy as sq
from anndata import AnnData

from methods._common import log_normalized, pca


def embed(adata: AnnData, seed: int) -> np.ndarray:
    adata.obsm["X_pca"] = pca(log_normalized(adata).X)
    adata.obs["sample"] = adata.obs["sample"].astype("category")
    sq.gr.spatial_neighbors(adata, library_key="sample", coord_type="generic", delaunay=True)
    cc.gr.remove_long_links(adata)
    cc.gr.aggregate_neighbors(adata, n_layers=3, use_rep="X_pca", sample_key="sample", out_key="X_cellcharter")
    return adata.obsm["X_cellcharter"]
