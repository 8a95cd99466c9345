"""sagefm with its default arguments, trained on the spots that it then embeds."""

import numpy as np
import scvi
from anndata import AnnData

import sagefm


def embed(adata: AnnData, seed: int) -> np.ndarray:
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = sagefm.SAGEFM(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()
