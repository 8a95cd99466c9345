"""SAGEFM on one modality of a MuData: the same results as on the modality alone, written to both levels."""

import mudata
import numpy as np
import pytest

import sagefm
from sagefm._errors import MissingKeyError

RNA = {"layer": "rna"}
FEW = {"max_epochs": 1, "enable_progress_bar": False}


@pytest.fixture
def mdata(adata):
    """RNA and protein, as measured by CytAssist, with the spots in different orders."""
    protein = adata[::-1, :12].copy()
    protein.var_names = [f"protein_{number}" for number in range(protein.n_vars)]
    return mudata.MuData({"protein": protein, "rna": adata.copy()})


@pytest.fixture
def model(mdata):
    sagefm.SAGEFM.setup_mudata(mdata, modalities=RNA)
    model = sagefm.SAGEFM(mdata, n_hidden=16, n_latent=4)
    model.train(**FEW)
    return model


def test_the_embedding_equals_that_of_the_modality_alone(model, mdata, tmp_path):
    latent = model.get_latent_representation()
    model.save_pretrained(tmp_path / "weights")
    alone = mdata["rna"].copy()
    expected = sagefm.SAGEFM.from_pretrained(tmp_path / "weights", alone).get_latent_representation()
    np.testing.assert_allclose(latent, expected, atol=1e-5)


def test_the_embedding_is_written_to_both_levels_by_spot_name(model, mdata):
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(mdata["rna"].obsm["X_sagefm"], latent)
    where = mdata.obs_names.get_indexer(mdata["rna"].obs_names)
    assert not (where == np.arange(len(where))).all()  # else the order was not tested
    np.testing.assert_array_equal(mdata.obsm["X_sagefm"][where], latent)
    assert "X_sagefm" not in mdata["protein"].obsm


def test_other_methods_accept_the_mudata(model, mdata):
    genes = list(mdata["rna"].var_names[:2])
    assert model.impute_masked(genes=genes).index.equals(mdata["rna"].obs_names)
    assert len(model.get_masked_recovery()) == mdata["rna"].n_vars
    model.impute_masked(genes=genes, layer_added="recovered")
    assert "recovered" in mdata["rna"].layers


def test_another_mudata_is_embedded_and_loaded_in_the_same_way(model, mdata, tmp_path):
    latent = model.get_latent_representation()
    other = mdata.copy()
    del other.obsm["X_sagefm"]
    np.testing.assert_array_equal(model.get_latent_representation(other), latent)
    assert "X_sagefm" in other.obsm
    model.save(tmp_path / "model")
    loaded = sagefm.SAGEFM.load(tmp_path / "model", other)
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)


def test_graph_and_embedding_are_written_to_disk(model, mdata, tmp_path):
    model.get_latent_representation()
    mdata.write_h5mu(tmp_path / "file.h5mu")
    read = mudata.read_h5mu(tmp_path / "file.h5mu")
    np.testing.assert_array_equal(read.obsm["X_sagefm"], mdata.obsm["X_sagefm"])
    assert "spatial_connectivities" in read["rna"].obsp


def test_spots_without_a_modality_are_an_error_and_can_be_removed(mdata):
    part = mudata.MuData({"rna": mdata["rna"][:-5].copy(), "protein": mdata["protein"].copy()})
    with pytest.raises(ValueError, match="unpaired"):
        sagefm.SAGEFM.setup_mudata(part, modalities=RNA)
    paired = part[part["rna"].obs_names].copy()
    sagefm.SAGEFM.setup_mudata(paired, modalities=RNA)
    assert "spatial_connectivities" in paired["rna"].obsp


def test_the_kind_of_graph_is_passed_on_and_kept(mdata, tmp_path):
    sagefm.SAGEFM.setup_mudata(mdata, modalities=RNA, graph="knn")
    model = sagefm.SAGEFM(mdata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    model.save(tmp_path / "model")
    new = mdata.copy()
    del new["rna"].obsp
    sagefm.SAGEFM.load(tmp_path / "model", new)
    for data in (mdata, new):
        assert set(np.diff(data["rna"].obsp["spatial_connectivities"].indptr)) == {14}


def test_errors_say_how_to_fix_them(model, mdata, adata):
    with pytest.raises(MissingKeyError, match=r"'gex' is not a modality.*\['protein', 'rna'\]"):
        sagefm.SAGEFM.setup_mudata(mdata, modalities={"layer": "gex"})
    with pytest.raises(ValueError, match=r"for example \{'layer': 'rna'\}"):
        sagefm.SAGEFM.setup_mudata(mdata, modalities="rna")
    with pytest.raises(ValueError, match="must be a MuData; found AnnData. Use `setup_anndata`"):
        sagefm.SAGEFM.setup_mudata(adata, modalities=RNA)
    with pytest.raises(ValueError, match=r"Pass one modality, for example `mdata\['"):
        sagefm.SAGEFM.setup_anndata(mdata)
    with pytest.raises(ValueError, match=r"mudata.MuData\(\{'rna': adata\}\)"):
        model.get_latent_representation(adata)
    with pytest.raises(MissingKeyError, match="sample_key='slide' is not a column of obs"):
        sagefm.SAGEFM.setup_mudata(mdata, modalities=RNA, sample_key="slide")
