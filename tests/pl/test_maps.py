"""Maps of columns of obs on the tissue."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.colors import to_hex

import sagefm


@pytest.fixture(scope="module")
def tissue():
    return sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)


@pytest.fixture
def section(tissue):
    return tissue[tissue.obs["sample"] == "section_1"].copy()


def test_there_is_a_panel_for_each_section_and_key(tissue):
    axes = sagefm.pl.domains(tissue, ["annotation", "array_row"], sample_key="sample")
    assert axes.shape == (2, 2)
    assert axes[1, 0].get_title() == "annotation\nsection_2"
    assert axes[0, 0].yaxis_inverted()
    n_spots = (tissue.obs["sample"] == "section_1").sum()
    assert len(axes[0, 0].collections[0].get_paths()) == n_spots


@pytest.mark.parametrize(
    ("n_sections", "keys", "ncols", "rows"),
    [
        (1, ["annotation"] * 6, 4, [4, 2]),
        (1, ["annotation"] * 6, 3, [3, 3]),
        (2, ["annotation"], 4, [2]),
        (2, ["annotation"], 1, [1, 1]),
        (2, ["annotation", "array_row", "array_col"], 2, [2, 1, 2, 1]),  # each section starts a new row
    ],
)
def test_panels_are_wrapped(tissue, section, n_sections, keys, ncols, rows):
    options = {"sample_key": "sample"} if n_sections == 2 else {}
    axes = sagefm.pl.domains(tissue if n_sections == 2 else section, keys, ncols=ncols, **options)
    assert axes.shape == (n_sections, len(keys))
    places = [ax.get_subplotspec() for ax in axes.ravel()]
    assert [sum(place.rowspan.start == row for place in places) for row in range(len(rows))] == rows
    assert all(place.is_first_col() for place in places[:: len(keys)] if len(keys) > 1)
    figure = axes[0, 0].figure
    assert {ax for ax in figure.axes if ax.get_label() != "<colorbar>"} == set(axes.ravel())


def test_at_least_one_panel_in_a_row(section):
    with pytest.raises(ValueError, match="ncols=0 must be 1 or more"):
        sagefm.pl.domains(section, "annotation", ncols=0)


def test_spots_fill_the_lattice(section):
    circles = sagefm.pl.domains(section, "annotation")[0, 0].collections[0].get_paths()
    width = np.median([np.ptp(path.vertices[:, 0]) for path in circles])
    assert 100 <= width <= 120  # spots are 100 apart


def test_coordinates_may_be_sparse(section):
    expected = sagefm.pl.domains(section, "annotation")[0, 0].collections[0].get_paths()
    section.obsm["spatial"] = sp.csr_matrix(section.obsm["spatial"])
    drawn = sagefm.pl.domains(section, "annotation")[0, 0].collections[0].get_paths()
    np.testing.assert_array_equal([path.vertices for path in drawn], [path.vertices for path in expected])


def test_spots_without_coordinates_are_not_drawn(section):
    section.obsm["spatial"][:3, 0] = np.nan
    axes = sagefm.pl.domains(section, ["annotation", "array_row"])
    assert len(axes[0, 0].collections[0].get_paths()) == section.n_obs - 3
    section.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match=r"No spot has finite coordinates in obsm\['spatial'\]"):
        sagefm.pl.domains(section, "annotation")


def test_data_is_unchanged(tissue):
    obs, uns = tissue.obs.copy(), set(tissue.uns)
    sagefm.pl.domains(tissue, "annotation", sample_key="sample")
    pd.testing.assert_frame_equal(tissue.obs, obs)
    assert set(tissue.uns) == uns


def test_colours_in_uns_are_used(section):
    section.obs["half"] = pd.Categorical(np.where(np.arange(section.n_obs) % 2, "odd", "even"))
    section.uns["half_colors"] = ["#ff0000", "#00ff00"]
    faces = sagefm.pl.domains(section, "half")[0, 0].collections[0].get_facecolor()
    assert {to_hex(face) for face in faces} == {"#ff0000", "#00ff00"}


def test_many_categories_text_booleans_and_missing_values_are_drawn(section):
    section.obs["many"] = [f"group {i % 12}" for i in range(section.n_obs)]
    section.obs["gaps"] = section.obs["annotation"].cat.remove_categories(["layer_1"])
    section.obs["flag"] = section.obs["array_row"] > 3
    axes = sagefm.pl.domains(section, ["many", "gaps", "flag"])
    assert axes.shape == (1, 3)
    assert [text.get_text() for text in axes[0, 2].get_legend().get_texts()] == ["False", "True"]


def test_panels_are_drawn_on_given_axes(tissue):
    _, axes = plt.subplots(2, 1)
    drawn = sagefm.pl.domains(tissue, "annotation", sample_key="sample", axes=axes)
    assert list(drawn.ravel()) == list(axes)
    with pytest.raises(ValueError, match="1 axes for 2 panels"):
        sagefm.pl.domains(tissue, "annotation", sample_key="sample", axes=axes[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "region"}, "'region' is not a column of obs"),
        ({"keys": "annotation", "sample_key": "slide"}, "'slide' is not a column of obs"),
        ({"keys": "annotation", "spatial_key": "xy"}, "spatial_key='xy' is not in obsm"),
    ],
)
def test_missing_keys_are_named(tissue, arguments, message):
    with pytest.raises(KeyError, match=message):
        sagefm.pl.domains(tissue, **arguments)
