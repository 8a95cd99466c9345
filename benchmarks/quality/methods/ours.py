"""sagefm with default arguments, trained for ten epochs; like the other methods, on all spots that it then embeds."""

import numpy as np
import scvi
from anndata import AnnData

from sagefm import SAGEFM  # at module level, because imports are not timed


def embed(adata: AnnData, seed: int) -> np.ndarray:
    scvi.settings.seed = seed
    SAGEFM.setup_anndata(adata, sample_key="sample")
    model = SAGEFM(adata)
    model.train(max_epochs=10, train_size=1, accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()
