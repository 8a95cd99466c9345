"""Whatever a function writes into an AnnData or MuData can be written to h5ad and zarr, and read back the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sagefm

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.sampled_from("aB/ .-_'\"\\{}[]:é細ß\t0"), min_size=1, max_size=6)
NAMES = TEXT | st.sampled_from(["B/T cells", "/", "..", "nan", "None", "True", "細胞", "naïve B", " ", "1"])
VALUES = NAMES | st.none() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.booleans() | st.just(pd.NA)
OBJECTS = VALUES | st.lists(NAMES | st.integers(0, 5), max_size=3) | st.dictionaries(NAMES, st.integers(), max_size=2)


@contextmanager
def written(adata: ad.AnnData) -> Iterator[list[ad.AnnData]]:
    """Read back what was written to either format."""
    with TemporaryDirectory() as folder:
        h5ad, zarr = Path(folder) / "a.h5ad", Path(folder) / "a.zarr"
        adata.write_h5ad(h5ad)
        adata.write_zarr(zarr)
        yield [ad.read_h5ad(h5ad), ad.read_zarr(zarr)]


def assert_same(found: object, expected: object) -> None:
    """Compare results; text in a table may come back as a category."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, pd.DataFrame):
        assert list(found) == list(expected)
        assert list(found.index) == list(expected.index)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, pd.Series):
        assert found.isna().tolist() == expected.isna().tolist()
        assert found.dropna().astype(str).tolist() == expected.dropna().astype(str).tolist()
    else:
        np.testing.assert_array_equal(found, expected)


def assert_written(adata: ad.AnnData, *places: str) -> None:
    """Write and read `adata`, and compare these results, such as `obs/domain`."""
    with written(adata) as copies:
        for copy in copies:
            for attribute, key in (place.split("/", 1) for place in places):
                assert_same(getattr(copy, attribute)[key], getattr(adata, attribute)[key])


@pytest.fixture(scope="module")
def embedded(trained_model: sagefm.SAGEFM) -> ad.AnnData:
    adata = trained_model.adata.copy()
    trained_model.get_latent_representation(adata)
    return adata


@pytest.mark.parametrize("key", ["X_sagefm", "Einbettung ß 細胞"])
def test_setup_embedding_and_imputation(trained_model, tissue, key):
    adata = tissue.copy()
    trained_model.get_latent_representation(adata, [0, 5], key_added=f"{key} of two")
    trained_model.get_latent_representation(adata, key_added=key)
    trained_model.impute_masked(adata, genes=list(adata.var_names[:2]), layer_added=key)
    trained_model.get_normalized_expression(adata, genes=list(adata.var_names[:2]), layer_added=f"{key} 2")
    assert_written(adata, f"obsm/{key}", f"obsm/{key} of two", f"layers/{key}", f"layers/{key} 2")
    with written(adata) as copies:
        for copy in copies:
            assert (copy.obsp["spatial_connectivities"] != adata.obsp["spatial_connectivities"]).nnz == 0
            np.testing.assert_array_equal(
                trained_model.get_latent_representation(copy, key_added=None), adata.obsm[key]
            )


@pytest.mark.parametrize("n_domains", [3, None])
def test_domains(embedded, n_domains):
    adata = embedded[:100].copy()
    sagefm.tl.domains(adata, n_domains, smooth=0, key_added="Domäne")
    assert_written(adata, "obs/Domäne", "uns/Domäne")


@FEW
@given(names=st.lists(VALUES, min_size=2, max_size=4, unique_by=str), n_labelled=st.integers(120, 192))
def test_annotation_with_classes_of_any_name(embedded, names, n_labelled):
    adata = embedded.copy()
    labels = [names[i % len(names)] if i < n_labelled else None for i in range(adata.n_obs)]
    adata.obs["kind"] = pd.Series(labels, adata.obs_names, dtype=object)
    try:
        sagefm.tl.annotate(adata, "kind", key_added="predicted")
    except ValueError as error:
        assert "class(es)" in str(error)  # fewer than two that are not missing
        return
    del adata.obs["kind"]  # the user's own column, which may be of mixed types
    places = ["obs/predicted", "obs/predicted_confidence", "obsm/predicted_probability", "uns/predicted_classes"]
    assert_written(adata, *places)


def test_a_mapped_query(embedded):
    query, reference = embedded[:100].copy(), embedded[100:].copy()
    sagefm.tl.map_query(query, reference, "annotation", key_added="Typ ß")
    assert_written(query, "obs/Typ ß", "obs/Typ ß_confidence", "obsm/Typ ß_probability", "uns/Typ ß_classes")


@FEW
@given(columns=st.dictionaries(NAMES | st.integers(0, 9), st.tuples(OBJECTS, OBJECTS), max_size=4))
def test_screens_of_resources_with_any_columns(trained_model, tissue, columns):
    adata, genes = tissue.copy(), list(tissue.var_names[:4])
    resource = pd.DataFrame({"ligand": genes[:2], "receptor": genes[2:]})
    for name, values in columns.items():
        resource[name] = pd.Series(values, dtype=object)
    screen = sagefm.tl.ligand_receptor_screen(trained_model, resource, adata=adata, n_controls=0)
    assert set(columns) <= set(screen)
    assert_written(adata, "uns/ligand_receptor_screen")


@pytest.mark.parametrize("dtype", ["string", "category", "Int64", "Float64", "boolean"])
def test_screens_of_resources_with_columns_of_pandas_types(trained_model, tissue, dtype):
    adata, genes = tissue.copy(), list(tissue.var_names[:4])
    resource = pd.DataFrame({"ligand": genes[:2], "receptor": genes[2:]})
    resource["more"] = pd.Series([1 if dtype != "string" else "é/1", None], dtype=object).astype(dtype)
    sagefm.tl.ligand_receptor_screen(trained_model, resource, adata=adata, n_controls=0)
    assert_written(adata, "uns/ligand_receptor_screen")


def test_results_in_a_mudata(tissue, tmp_path):
    mdata = mudata.MuData({"rna": tissue.copy(), "prot": tissue[:, :5].copy()})
    sagefm.SAGEFM.setup_mudata(mdata, modalities={"layer": "rna"})
    model = sagefm.SAGEFM(mdata, n_hidden=8, n_latent=4)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.get_latent_representation(key_added="Einbettung ß")
    model.impute_masked(genes=list(tissue.var_names[:2]), layer_added="imputed")
    mdata.write_h5mu(tmp_path / "a.h5mu")
    mdata.write_zarr(tmp_path / "a.zarr")
    for copy in (mudata.read_h5mu(tmp_path / "a.h5mu"), mudata.read_zarr(tmp_path / "a.zarr")):
        assert_same(copy.obsm["Einbettung ß"], mdata.obsm["Einbettung ß"])
        assert_same(copy["rna"].obsm["Einbettung ß"], mdata["rna"].obsm["Einbettung ß"])
        assert_same(copy["rna"].layers["imputed"], mdata["rna"].layers["imputed"])


def test_simulated_tissue(tissue):
    assert_written(tissue, *[f"uns/{key}" for key in tissue.uns], *[f"obs/{name}" for name in tissue.obs])
