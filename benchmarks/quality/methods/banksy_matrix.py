"""BANKSY matrix of 18 neighbours without gradients, as in its vignette for cortex, then 20 principal components."""

import contextlib
import os

import matplotlib

matplotlib.use("agg")

import numpy as np
import scanpy as sc
from anndata import AnnData
from banksy.embed_banksy import generate_banksy_matrix
from banksy.initialize_banksy import initialize_banksy

from methods._common import log_normalized


def embed(adata: AnnData, seed: int, neighbor_weight: float) -> np.ndarray:
    logged = log_normalized(adata, n_top_genes=2000)
    logged.obs["x"], logged.obs["y"] = np.asarray(logged.obsm["spatial"], dtype=float).T
    logged.X = logged.X.toarray()
    plots = dict.fromkeys(("plt_edge_hist", "plt_nbr_weights", "plt_agf_angles", "plt_theta"), False)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        graphs = initialize_banksy(logged, ("x", "y", "spatial"), num_neighbours=18, max_m=0, **plots)
        _, matrix = generate_banksy_matrix(logged, graphs, [neighbor_weight], max_m=0, verbose=False)
    return sc.pp.pca(np.nan_to_num(np.asarray(matrix.X, dtype=np.float32)), n_comps=20)
