"""Results of training: the best weights, embeddings robust to shifts and scales of genes, and counts released."""

import gc
import weakref

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi

import sagefm
from sagefm.data import SectionSplitter, registered_spots

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def test_training_ends_with_the_weights_of_the_lowest_validation_loss(adata: ad.AnnData):
    sagefm.SAGEFM.setup_anndata(adata)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=12, plan_kwargs={"lr": 3e-2}, **QUIET)  # overfits soon
    losses = model.history["validation_loss"]["validation_loss"].astype(float)
    assert losses.iloc[-1] > losses.min()
    spots = registered_spots(model.adata_manager, model.module.normalization)
    model.trainer.validate(model.trainer.lightning_module, SectionSplitter(spots), verbose=False)
    assert float(model.trainer.callback_metrics["validation_loss"]) == pytest.approx(losses.min(), rel=1e-3)


def test_shifting_and_scaling_the_genes_of_a_section_changes_its_embedding_little():
    def embedded(factor: np.ndarray | int) -> np.ndarray:
        section = sagefm.datasets.simulated_tissue(16, 16, n_genes=150)
        section.X = sp.csr_matrix(section.X.multiply(factor))
        return model.get_latent_representation(section)

    tissue = sagefm.datasets.simulated_tissue(16, 16, n_genes=150)
    sagefm.SAGEFM.setup_anndata(tissue)
    scvi.settings.seed = 0
    model = sagefm.SAGEFM(tissue, n_latent=4)
    model.train(max_epochs=5, train_size=1, **QUIET)
    # Every other gene is counted three times as often: a shift of raw values that standardisation mostly removes.
    changed = embedded(np.where(np.arange(150) % 2, 3, 1)[None])
    for before, after in zip(embedded(1).T, changed.T, strict=True):
        assert np.corrcoef(before, after)[0, 1] > 0.9


def test_the_trainer_keeps_no_copy_of_the_counts(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch):
    made = []

    class Watched(SectionSplitter):
        def __init__(self, spots, *args, **kwargs):
            super().__init__(spots, *args, **kwargs)
            made.append(weakref.ref(spots))
            made.append(weakref.ref(spots._counts))

    monkeypatch.setattr("sagefm.model._train.SectionSplitter", Watched)
    adata = adata[:, ::-1].copy()  # so that the counts of the spots are a copy
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    gc.collect()
    assert model.trainer.datamodule is not None
    assert len(made) == 2 and not any(reference() is not None for reference in made)
    with pytest.raises(RuntimeError, match="The counts were released at the end of training; make a new splitter"):
        model.trainer.datamodule.gene_moments()
