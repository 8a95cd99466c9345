"""The table of a SpatialData object is set up as it is, and results written to it are saved."""

import numpy as np
import pytest

import sagefm

spatialdata = pytest.importorskip("spatialdata")


def test_a_table_is_set_up_as_it_is(adata, tmp_path):
    adata.obs["region"], adata.obs["spot"] = "spots", np.arange(adata.n_obs)
    model = spatialdata.models.TableModel
    table = model.parse(adata, region="spots", region_key="region", instance_key="spot", overwrite_metadata=True)
    sdata = spatialdata.SpatialData(tables={"table": table})
    sagefm.SAGEFM.setup_anndata(sdata["table"], sample_key="region")
    model = sagefm.SAGEFM(sdata["table"], n_hidden=16, n_latent=4)
    model.train(max_epochs=1, enable_progress_bar=False)
    latent = model.get_latent_representation()
    sdata.write(tmp_path / "section.zarr")
    read = spatialdata.read_zarr(tmp_path / "section.zarr")
    np.testing.assert_array_equal(read["table"].obsm["X_sagefm"], latent)
    assert "spatial_connectivities" in read["table"].obsp
