"""sagefm with its default arguments, trained for ten epochs on all the spots that it then embeds, as peers are."""

import numpy as np
import scvi
from anndata import AnnData

import sagefm


def embed(adata: AnnData, seed: int) -> np.ndarray:
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=10, train_size=1, accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()
