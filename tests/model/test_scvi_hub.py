"""A saved model goes through scvi.hub, as any model of scvi-tools does."""

import anndata
import numpy as np
import pytest

import sagefm

huggingface_hub = pytest.importorskip("huggingface_hub", reason="scvi.hub needs the extra `hub`")


def test_scvi_hub_saves_and_loads_a_model(tmp_path):
    from scvi.hub import HubMetadata, HubModel

    adata = sagefm.datasets.simulated_tissue(10, 10, n_genes=120)
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, enable_progress_bar=False)
    latent = model.get_latent_representation()
    folder = str(tmp_path / "model")
    model.save(folder, save_anndata=True)

    metadata = HubMetadata.from_dir(folder, anndata_version=anndata.__version__, model_parent_module="sagefm")
    card = huggingface_hub.ModelCard("---\nlicense: cc0-1.0\n---\n# A model of a simulated tissue\n")
    HubModel(folder, metadata=metadata, model_card=card).save()
    loaded = HubModel(folder).model

    assert isinstance(loaded, sagefm.SAGEFM)
    np.testing.assert_array_equal(loaded.get_latent_representation(), latent)
