"""Warnings about neighbours that belong to different sections, or lie outside the tissue."""

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.data._layout import detect_lattice
from sagefm.data._section_columns import names_section

setup = sagefm.SAGEFM.setup_anndata


def overlapping(n_sections: int = 3, spacing: float = 1.0) -> ad.AnnData:
    """Sections on one area, shifted and turned, so that no two spots coincide; the obs has no column for them."""
    parts = []
    for seed in range(n_sections):
        part = sagefm.datasets.simulated_tissue(10, 10, n_genes=60, seed=seed, n_interactions=0)
        angle = 0.4 * seed
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        part.obsm["spatial"] = part.obsm["spatial"] @ turn * (1 + 0.13 * seed) + 17.3 * seed
        parts.append(part)
    both = ad.concat(parts, index_unique="-")
    both.uns.clear()
    both.obs = pd.DataFrame(index=both.obs_names)
    return both


def sections_of(adata: ad.AnnData) -> np.ndarray:
    return np.array([f"s{name.rsplit('-', 1)[1]}" for name in adata.obs_names])


def warned(adata: ad.AnnData, **kwargs: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        setup(adata, **kwargs)
    return [str(w.message) for w in caught if "neighbour" in str(w.message)]


@pytest.mark.parametrize(
    "name",
    ["sample", "sample_id", "Sample", "section", "library", "library_id", "slide", "batch", "patient", "PatientID"]
    + ["donor_id", "orig.ident", "capture_area", "subject", "sampleID"],
)
@pytest.mark.parametrize("dtype", ["str", "category"])
def test_a_column_that_names_sections_is_named_in_a_warning(name, dtype):
    adata = overlapping()
    adata.obs[name] = pd.Series(sections_of(adata), adata.obs_names).astype(dtype)
    (message,) = warned(adata)
    edges = adata.obsp["spatial_connectivities"].tocoo()
    sections = sections_of(adata)
    n_joined = (sections[edges.row] != sections[edges.col]).sum()
    assert n_joined > 100
    assert message.startswith(
        f"{n_joined} of the {edges.nnz} edges of the new neighbour graph join spots with different obs[{name!r}] "
        "(3 values, for example 's0' and 's1')."
    )
    assert f"`sample_key={name!r}`" in message
    del adata.obsp["spatial_connectivities"]
    assert not warned(adata, sample_key=name)


@pytest.mark.parametrize(
    "name", ["annotation", "cell_type", "n_counts", "sampled", "region", "array_row", "patient_age"]
)
def test_other_columns_do_not_name_sections(name):
    assert not names_section(name)


def test_numbers_may_name_sections():
    adata = overlapping()
    adata.obs["slide"] = np.unique(sections_of(adata), return_inverse=True)[1]
    assert len(warned(adata)) == 1


def test_the_column_that_most_edges_join_is_named():
    adata = overlapping()
    adata.obs["patient"] = np.where(sections_of(adata) == "s0", "p0", "p1")
    adata.obs["sample"] = sections_of(adata)
    (message,) = warned(adata)
    assert "obs['sample']" in message


def test_a_column_of_any_name_whose_values_are_lattices_is_named():
    adata = overlapping()
    adata.obs["where"] = sections_of(adata)
    adata.obs["annotation"] = np.random.default_rng(0).choice(["a", "b"], adata.n_obs)
    (message,) = warned(adata)
    assert "obs['where'] (3 values" in message


def test_parts_of_a_deformed_grid_do_not_warn(real_section):
    heart = real_section("heart_asp2019__5_CN74_E1_HE")
    heart.obs["cluster"] = np.random.default_rng(11).choice(["a", "b"], heart.n_obs)
    places = heart.obsm["spatial"]
    assert all(detect_lattice(places[heart.obs["cluster"] == name]) == "square grid" for name in "ab")
    assert not warned(heart)


def test_slices_of_a_stack_do_not_warn():
    adata = overlapping()
    adata.obs["slice"] = sections_of(adata)
    x, y = adata.obsm["spatial"].T
    depth = np.unique(sections_of(adata), return_inverse=True)[1] * 10.0
    adata.obsm["spatial"] = pd.DataFrame({"x": x, "y": y, "z": depth}, index=adata.obs_names)
    assert not warned(adata)


def test_labels_do_not_warn():
    adata = overlapping()
    adata.obs["annotation"] = np.random.default_rng(0).choice(["a", "b"], adata.n_obs)
    assert not warned(adata)


def test_libraries_in_uns_name_the_column_that_holds_them():
    adata = overlapping()
    adata.uns["spatial"] = {"s0": {}, "s1": {}, "s2": {}}
    (message,) = warned(adata)
    assert message.startswith("uns['spatial'] has 3 libraries (for example 's0' and 's1'), but no column of obs")
    adata.obs["empty"] = pd.Series(np.nan, adata.obs_names, dtype=object)
    del adata.obsp["spatial_connectivities"]
    assert warned(adata) == [message]
    adata.obs["origin"] = sections_of(adata)
    adata.obsm["spatial"] += np.random.default_rng(0).normal(0, 40, adata.obsm["spatial"].shape)  # no lattice in any
    del adata.obsp["spatial_connectivities"]
    (message,) = warned(adata)
    assert "obs['origin']" in message


def test_a_part_of_one_library_does_not_warn():
    adata = overlapping()
    adata.uns["spatial"] = {"s0": {}, "s1": {}, "s2": {}}
    adata.obs["library_id"] = sections_of(adata)
    assert not warned(adata[adata.obs["library_id"] == "s0"].copy())


def test_the_region_of_spatialdata_names_sections():
    adata = overlapping()
    adata.obs["where"] = sections_of(adata)
    adata.obsm["spatial"] += np.random.default_rng(0).normal(0, 40, adata.obsm["spatial"].shape)
    assert not warned(adata)
    adata.uns["spatialdata_attrs"] = {"region_key": "where"}
    del adata.obsp["spatial_connectivities"]
    assert len(warned(adata)) == 1


def test_sections_far_apart_do_not_warn():
    adata = overlapping()
    adata.obs["sample"] = sections_of(adata)
    adata.obsm["spatial"][:, 0] += 1e5 * np.unique(sections_of(adata), return_inverse=True)[1]
    assert not warned(adata)


def test_a_name_for_every_spot_or_only_missing_values_do_not_warn():
    adata = overlapping()
    adata.obs["sample"] = adata.obs_names
    adata.obs["batch"] = np.nan
    assert not warned(adata)


def test_an_existing_graph_does_not_warn_again():
    adata = overlapping()
    adata.obs["sample"] = sections_of(adata)
    assert warned(adata)
    assert not warned(adata)


def test_six_real_sections_without_sample_key_warn(real_section):
    names = [f"her2st_andersson2021__A{number}" for number in range(1, 7)]
    six = ad.concat([real_section(name)[:, :2000] for name in names], index_unique="-")
    six = six[np.asarray(six.X.sum(axis=1)).ravel() > 0].copy()
    (message,) = warned(six)
    assert "obs['sample_id'] (6 values" in message
    del six.obsp["spatial_connectivities"]
    assert not warned(six, sample_key="sample_id")


# Spots outside the tissue.


@pytest.mark.parametrize("dtype", ["int", "bool", "str", "float"])
def test_spots_outside_the_tissue_warn_and_the_remedy_works(adata, dtype):
    values = pd.Series(1, adata.obs_names)
    values.iloc[:5] = 0
    adata.obs["in_tissue"] = values.astype(dtype)
    (message,) = warned(adata)
    assert message.startswith(f"5 of {adata.n_obs} spots are outside the tissue (obs['in_tissue'] is 0)")
    names = {"adata": adata}
    exec(re.findall("`(adata.*?)`", message)[0], names)
    assert names["adata"].n_obs == adata.n_obs - 5
    assert not warned(names["adata"])


@pytest.mark.parametrize("value", [0, 1])
def test_a_constant_column_does_not_warn(adata, value):
    adata.obs["in_tissue"] = value
    assert not warned(adata)


def test_the_warning_comes_at_setup_and_with_a_new_section_and_not_later(adata, trained_model):
    adata.obs["in_tissue"] = np.arange(adata.n_obs) > 3
    with pytest.warns(UserWarning, match=f"4 of {adata.n_obs} spots are outside the tissue"):
        trained_model.get_latent_representation(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained_model.get_latent_representation(adata)
