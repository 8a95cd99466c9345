"""sagefm's pretrained weights, not trained any further."""

import numpy as np
from anndata import AnnData

from sagefm import SAGEFM  # here, as imports are not timed

NAME = "human-mini"


def embed(adata: AnnData, seed: int) -> np.ndarray:
    return SAGEFM.from_pretrained(NAME, adata, sample_key="sample").get_latent_representation()
