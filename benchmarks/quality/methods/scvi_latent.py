"""scVI on the 2,000 most variable genes, with the section as batch if there are several."""

import numpy as np
import scvi
from anndata import AnnData

from methods._common import most_variable


def embed(adata: AnnData, seed: int) -> np.ndarray:
    scvi.settings.seed = seed
    adata = most_variable(adata, 2000)
    scvi.model.SCVI.setup_anndata(adata, batch_key="sample")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", early_stopping=True, enable_progress_bar=False)
    return model.get_latent_representation()
