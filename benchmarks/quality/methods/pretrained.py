"""sagefm's pretrained weights, not trained any further."""

import numpy as np
from anndata import AnnData

import sagefm

NAME = "human-mini"


def embed(adata: AnnData, seed: int) -> np.ndarray:
    return sagefm.SAGEFM.from_pretrained(NAME, adata, sample_key="sample").get_latent_representation()
