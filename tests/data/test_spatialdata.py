"""The table of a SpatialData object is set up as it is, and results written to it are saved."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import sagefm

PAGE = Path(__file__).parents[2] / "docs" / "spatialdata.md"
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


def centroids_of(sdata, table) -> np.ndarray:
    """The lines of `docs/spatialdata.md`."""
    attrs = table.uns["spatialdata_attrs"]
    instances = table.obs[attrs["instance_key"]]
    regions = table.obs.groupby(attrs["region_key"], observed=True).indices
    centers = np.full((table.n_obs, 2), np.nan)
    for region, rows in regions.items():
        found = spatialdata.get_centroids(sdata[region]).compute()
        centers[rows] = found.loc[instances.iloc[rows], ["x", "y"]]
    return centers


@pytest.mark.parametrize("names", ["numbers", "text"])
def test_centroids_are_matched_by_instance_and_not_by_order(adata, names):
    lines = inspect.getsource(centroids_of).splitlines()[2:-1]
    assert "\n".join(line.removeprefix("    ") for line in lines) in PAGE.read_text()
    rng, half = np.random.default_rng(0), adata.n_obs // 2
    places, regions = adata.obsm.pop("spatial"), np.repeat(["left", "right"], [half, adata.n_obs - half])
    instances = rng.permutation(10 * adata.n_obs)[: adata.n_obs]
    adata.obs["region"], adata.obs["spot"] = regions, instances if names == "numbers" else instances.astype(str)
    shapes = {}
    for region in ("left", "right"):
        rows = rng.permutation(np.flatnonzero(regions == region))
        index = adata.obs["spot"].iloc[rows].to_numpy()
        shapes[region] = spatialdata.models.ShapesModel.parse(places[rows], geometry=0, radius=1.0, index=index)
    table = spatialdata.models.TableModel.parse(
        adata, region=["left", "right"], region_key="region", instance_key="spot", overwrite_metadata=True
    )
    sdata = spatialdata.SpatialData(shapes=shapes, tables={"table": table})
    np.testing.assert_allclose(centroids_of(sdata, sdata["table"]), places)
    sdata["table"].obsm["spatial"] = centroids_of(sdata, sdata["table"])
    sagefm.SAGEFM.setup_anndata(sdata["table"], sample_key="region")
