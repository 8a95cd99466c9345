"""The network of the paper with the paper's optimiser, trained on the spots that it then embeds, for `minutes`."""

import numpy as np
import scvi
from anndata import AnnData

from sagefm import SAGEFM  # here, as imports are not timed


def embed(adata: AnnData, seed: int, minutes: float = 3.0) -> np.ndarray:
    scvi.settings.seed = seed
    SAGEFM.setup_anndata(adata, sample_key="sample")
    model = SAGEFM(adata, **SAGEFM.published_architecture())
    training = SAGEFM.published_training() | {"early_stopping": False, "max_epochs": 1000}
    model.train(**training, accelerator="cpu", max_time={"minutes": minutes}, enable_progress_bar=False)
    return model.get_latent_representation()
