"""sagefm with the packaged weights of the species, as they are or trained for some epochs on the spots to embed."""

import numpy as np
import scvi
from anndata import AnnData

from sagefm import SAGEFM  # at module level, because imports are not timed
from sagefm.weights import best_packaged_weights


def embed(adata: AnnData, seed: int, max_epochs: int = 0) -> np.ndarray:
    weights, _ = best_packaged_weights(adata.var_names)
    model = SAGEFM.from_pretrained(weights, adata, sample_key="sample")
    if max_epochs:
        scvi.settings.seed = seed
        model.train(max_epochs=max_epochs, train_size=1, accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()
