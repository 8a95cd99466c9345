"""`train`: seeds, early stopping, the length of training, other arguments, and data modules that are not ours."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning import LightningDataModule
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import sagefm
from sagefm.data import NeighborhoodDataset, registered_spots

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=200, seed=1)
    sagefm.SAGEFM.setup_anndata(adata)
    return adata


def test_training_lowers_the_loss_and_logs_it(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=64)
    model.train(max_epochs=30, **QUIET)
    for name in ("train_loss", "validation_loss"):
        loss = model.history[name][name].astype(float)
        assert loss.min() < loss.iloc[0]


def test_runs_with_the_same_seed_agree_and_with_different_seeds_do_not(tissue):
    def latent(seed: int) -> np.ndarray:
        scvi.settings.seed = seed
        model = sagefm.SAGEFM(tissue, n_hidden=32, n_latent=8)
        model.train(max_epochs=3, **QUIET)
        return model.get_latent_representation(key_added=None)

    first = latent(0)
    np.testing.assert_array_equal(latent(0), first)
    assert not np.allclose(latent(1), first)


def test_early_stopping_ends_training(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_hidden=32)
    model.train(max_epochs=200, early_stopping_patience=1, plan_kwargs={"lr": 0.05}, **QUIET)
    assert len(model.history["train_loss"]) < 200


def test_training_on_all_spots_has_no_validation(tissue):
    model = sagefm.SAGEFM(tissue, n_hidden=16)
    model.train(max_epochs=2, train_size=1.0, **QUIET)
    assert len(model.validation_indices) == 0 and len(model.train_indices) == tissue.n_obs


def test_arguments_of_the_plan_reach_the_optimiser(tissue):
    model = sagefm.SAGEFM(tissue, n_hidden=16)
    model.train(max_epochs=1, plan_kwargs={"lr": 0.02, "weight_decay": 0.5, "optimizer": "AdamW"}, **QUIET)
    optimizer = model.trainer.optimizers[0]
    assert type(optimizer).__name__ == "AdamW"
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["eps"], group["fused"]) == (0.02, 0.5, 1e-8, True)


def test_an_unknown_argument_is_an_error(tissue):
    with pytest.raises(TypeError):
        sagefm.SAGEFM(tissue, n_hidden=16).train(max_epochs=1, epochs=3, **QUIET)


def test_further_training_keeps_the_standardisation_of_genes(tissue):
    model = sagefm.SAGEFM(tissue, n_hidden=32, n_latent=8)
    model.train(max_epochs=3, **QUIET)
    before = model.module.normalization.gene_scale.clone()
    model.train(max_epochs=1, train_size=0.5, **QUIET)
    np.testing.assert_array_equal(model.module.normalization.gene_scale, before)


class Batches(LightningDataModule):
    """A data module that only has batches: none of the members that the default length and initialisation need."""

    def __init__(self, model: sagefm.SAGEFM) -> None:
        super().__init__()
        self.spots = registered_spots(model.adata_manager, model.module.normalization)
        self.dataset = NeighborhoodDataset(self.spots)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, sampler=BatchSampler(RandomSampler(self.dataset), 64, False), batch_size=None)


class DescribedBatches(Batches):
    """A data module that is neither of ours, with all these members."""

    n_spots, n_validation = 10_000, 0  # as if there were more spots: by default, 120,000 are seen in 12 epochs

    def connect(self, normalization: torch.nn.Module, genes: pd.Index) -> None:
        self.normalization, self.genes = normalization, genes

    def gene_moments(self) -> tuple[np.ndarray, np.ndarray]:
        return self.spots.gene_moments(np.arange(self.spots.n_obs))

    def sample(self, n_spots: int) -> torch.Tensor:
        rows = np.arange(min(n_spots, self.spots.n_obs))
        return self.spots.inputs(rows, self.spots.units.of(rows))


def test_a_data_module_with_all_members_sets_length_and_initialisation(tissue):
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue)
    data = DescribedBatches(model)
    model.train(datamodule=data, **QUIET)
    assert len(model.history["train_loss"]) == 12
    assert data.normalization is model.module.normalization and data.genes.equals(model.genes)
    mean, deviation = data.gene_moments()
    np.testing.assert_allclose(model.module.normalization.gene_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(model.module.normalization.gene_scale, deviation, rtol=1e-6)
    recovery = model.get_masked_recovery(fit_section=False).attrs
    assert recovery["top500_r"] > recovery["top500_r_neighbors"]


def test_a_data_module_without_these_members_needs_the_length(tissue):
    model = sagefm.SAGEFM(tissue)
    with pytest.raises(ValueError, match="`max_epochs` must be passed in"):
        model.train(datamodule=Batches(model), early_stopping=False, **QUIET)
    model.train(max_epochs=2, datamodule=Batches(model), early_stopping=False, **QUIET)
    assert model.is_trained and len(model.history["train_loss"]) == 2
    assert model.module.normalization.gene_scale.eq(1).all()
    assert np.isfinite(model.get_latent_representation(key_added=None)).all()
