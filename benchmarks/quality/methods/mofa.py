"""MOFA (in muon) on the 2,000 most variable genes, optionally with the mean of the neighbours as a second view."""

import contextlib
import os
import tempfile

import mudata
import muon
import numpy as np
from anndata import AnnData

from methods._common import log_normalized, neighborhood_mean


def embed(adata: AnnData, seed: int, neighbor_view: bool = False) -> np.ndarray:
    own = log_normalized(adata, n_top_genes=2000)
    own.X = own.X.toarray()
    views = {"spot": own}
    if neighbor_view:
        around = own.copy()
        around.X = neighborhood_mean(adata, around.X, with_self=False).toarray()
        around.var_names = [f"{gene} around" for gene in around.var_names]
        views["neighbors"] = around
    joint = mudata.MuData(views)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        file = os.path.join(folder, "mofa.hdf5")
        muon.tl.mofa(joint, use_var=None, n_factors=20, scale_views=neighbor_view, seed=seed, outfile=file)
    return joint.obsm["X_mofa"]
