"""GraphST with default settings."""

import contextlib
import os

import numpy as np
import torch
from anndata import AnnData
from GraphST.GraphST import GraphST


def embed(adata: AnnData, seed: int) -> np.ndarray:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return GraphST(adata, device=torch.device("cpu"), random_seed=seed).train().obsm["emb"]
