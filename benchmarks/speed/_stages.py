"""The stages of an embedding and of a training step, each as a call that can be timed on its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import squidpy as sq
import torch

import sagefm
from sagefm.data import SectionSplitter, Spots, registered_spots
from sagefm.module import BATCH_SIZE, MaskedCenterPlan, OnePass

Stages = dict[str, Callable[[], Any]]
TRAINING_BATCH = 128


def model_of(adata: ad.AnnData) -> sagefm.SAGEFM:
    """Return the default model after one training step; timings do not depend on the weights."""
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, limit_train_batches=1, early_stopping=False, enable_progress_bar=False)
    return model


def spots_of(model: sagefm.SAGEFM) -> Spots:
    """Return the spots of the model's AnnData, with nothing computed yet."""
    return registered_spots(model.adata_manager, model.module.normalization)


def bare_products(model: sagefm.SAGEFM, n_spots: int) -> Callable[[], None]:
    """Return a call that runs only the dense matrix products of embedding `n_spots`, on input that is already dense."""
    conv, rest = model.module.encoder.conv1, n_spots % BATCH_SIZE
    weights = [conv.lin_l.weight, conv.lin_r.weight]
    x = torch.rand(BATCH_SIZE, weights[0].shape[1])

    @torch.inference_mode()
    def call() -> None:
        for n in [BATCH_SIZE] * (n_spots // BATCH_SIZE) + [rest] * (rest > 0):
            for weight in weights:
                x[:n] @ weight.T

    return call


def bare_step_products(model: sagefm.SAGEFM) -> Callable[[], None]:
    """Return a call that runs only the dense matrix products of a training step, forward and backward."""
    encoder, decoder = model.module.encoder, model.module.decoder
    weights = [encoder.conv1.lin_l.weight.detach(), encoder.conv1.lin_r.weight.detach()]
    decoding = decoder.weight.detach()
    x, hidden = torch.rand(TRAINING_BATCH, decoding.shape[0]), torch.rand(TRAINING_BATCH, weights[0].shape[0])
    latent = torch.rand(TRAINING_BATCH, decoding.shape[1])

    def call() -> None:
        for weight in weights:
            x @ weight.T
            hidden.T @ x
        latent @ decoding.T
        x.T @ latent
        x @ decoding

    return call


def embedding_stages(model: sagefm.SAGEFM, folder: Path) -> Stages:
    """Return the stages of an embedding; `embedding` is the whole embedding, without building the graph or writing."""
    adata, spots = model.adata, spots_of(model)
    one_pass, rows = OnePass(model.module, spots), np.arange(spots.n_obs)

    def units() -> object:
        del spots.units  # cached after the first call
        return spots.units

    return {
        "products": bare_products(model, spots.n_obs),
        "graph": lambda: sq.gr.spatial_neighbors_grid(adata, n_rings=2, copy=True),
        "setup": lambda: sagefm.SAGEFM.setup_anndata(adata),
        "counts to log scale": lambda: spots_of(model).log(rows[:1]),  # of all spots, at the first call
        "units": units,
        "network": lambda: one_pass.latent(rows),
        "embedding": lambda: model.get_latent_representation(key_added=None),
        "writing": lambda: adata.write_h5ad(folder / "written.h5ad"),
    }


def training_stages(model: sagefm.SAGEFM) -> Stages:
    """Return the stages of a training step; `step` is the complete step."""
    spots = spots_of(model)
    splitter = SectionSplitter(spots, batch_size=TRAINING_BATCH)
    splitter.setup()
    loader = splitter.train_dataloader()
    plan = MaskedCenterPlan(model.module.train())
    optimizer = plan.configure_optimizers()["optimizer"]
    rows = np.random.default_rng(0).choice(spots.n_obs, TRAINING_BATCH, replace=False)
    batch = next(iter(loader))
    state: dict[str, torch.Tensor] = {}

    def forward() -> None:
        state["loss"] = plan.forward(batch)[2].loss

    def backward() -> None:
        optimizer.zero_grad()
        state["loss"].backward()

    def step() -> None:
        optimizer.zero_grad()
        plan.forward(next(iter(loader)))[2].loss.backward()
        optimizer.step()

    return {
        "products": bare_step_products(model),
        "neighbourhood means": lambda: spots.neighborhood_means(rows),
        "loader": lambda: next(iter(loader)),
        "forward": forward,
        "backward": backward,
        "optimiser": optimizer.step,
        "step": step,
    }
