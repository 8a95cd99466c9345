"""sagefm with its default arguments, trained for ten epochs on all the spots that it then embeds, as peers are."""

import numpy as np
import scvi
from anndata import AnnData

from sagefm import SAGEFM  # here, as imports are not timed


def embed(adata: AnnData, seed: int) -> np.ndarray:
    scvi.settings.seed = seed
    SAGEFM.setup_anndata(adata, sample_key="sample")
    model = SAGEFM(adata)
    model.train(max_epochs=10, train_size=1, accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()
