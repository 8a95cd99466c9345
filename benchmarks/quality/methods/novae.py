"""Novae with default settings, trained from scratch on the sections themselves, like the other methods."""

import lightning
import novae
import numpy as np
from anndata import AnnData


def embed(adata: AnnData, seed: int) -> np.ndarray:
    lightning.seed_everything(seed)
    adata = adata.copy()
    technology = None if adata.uns["single_cells"] else "visium"
    novae.spatial_neighbors(adata, slide_key="sample", technology=technology)
    model = novae.Novae(adata)
    model.fit(enable_progress_bar=False)
    model.compute_representations(adata)
    return adata.obsm["novae_latent"]
