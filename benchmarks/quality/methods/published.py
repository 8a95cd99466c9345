"""Network and optimiser of the paper, trained for `minutes` on the spots that are then embedded."""

import numpy as np
import scvi
from anndata import AnnData

from sagefm import SAGEFM  # at module level, because imports are not timed


def embed(adata: AnnData, seed: int, minutes: float = 3.0) -> np.ndarray:
    scvi.settings.seed = seed
    SAGEFM.setup_anndata(adata, sample_key="sample")
    model = SAGEFM(adata, **SAGEFM.published_architecture())
    training = SAGEFM.published_training() | {"early_stopping": False, "max_epochs": 1000}
    model.train(**training, accelerator="cpu", max_time={"minutes": minutes}, enable_progress_bar=False)
    return model.get_latent_representation()
