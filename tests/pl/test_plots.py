import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import sagefm

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tissue():
    return sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)


@pytest.fixture(scope="module")
def model():
    adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=2, enable_progress_bar=False)
    return model


@pytest.fixture
def table():
    columns = {"r": [0.5, 0.1, np.nan], "r_neighbors": [0.2, 0.3, np.nan], "mean_expression": [2.0, 0.1, 0.0]}
    return pd.DataFrame(columns, index=["MBP", "CD3E", "ABSENT"])


def test_recovery_puts_neighbours_across_and_model_up(table):
    ax = sagefm.pl.recovery(table)
    assert isinstance(ax, Axes)
    dots = sorted(map(tuple, ax.collections[0].get_offsets()))
    assert dots == [(0.2, 0.5), (0.3, 0.1)]
    assert ax.get_xlabel() == "r of the mean of the neighbours"
    assert ax.get_ylabel() == "r of the model"


def test_recovery_draws_the_most_expressed_genes_last(table):
    colours = sagefm.pl.recovery(table).collections[0].get_array()
    assert list(colours) == [0.1, 2.0]


def test_recovery_has_the_totals_for_a_title(model):
    table = model.get_masked_recovery()
    ax = sagefm.pl.recovery(table)
    assert f"model {table.attrs['top500_r']:.2f}" in ax.get_title()
    assert f"{table.attrs['n_genes']} most expressed" in ax.get_title()
    table.attrs.clear()
    assert sagefm.pl.recovery(table).get_title() == ""


def test_recovery_draws_on_given_axes(table):
    _, ax = plt.subplots()
    assert sagefm.pl.recovery(table, ax=ax) is ax


def test_recovery_names_a_missing_column(table):
    with pytest.raises(KeyError, match="no column 'r_neighbors'"):
        sagefm.pl.recovery(table.drop(columns="r_neighbors"))


def test_history_draws_both_losses(model):
    _, given = plt.subplots()
    ax = sagefm.pl.history(model, ax=given)
    assert ax is given
    assert [line.get_label() for line in ax.lines] == ["training", "validation"]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), model.history["validation_loss"].to_numpy(float).ravel())


def test_history_without_validation():
    adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.pl.history(model)
    model.train(max_epochs=1, train_size=1.0, enable_progress_bar=False)
    assert [line.get_label() for line in sagefm.pl.history(model).lines] == ["training"]


def test_domains_gives_a_panel_for_each_section_and_key(tissue):
    axes = sagefm.pl.domains(tissue, ["annotation", "array_row"], sample_key="sample")
    assert axes.shape == (2, 2)
    assert axes[1, 0].get_title() == "annotation\nsection_2"
    assert axes[0, 0].yaxis_inverted()
    n_spots = (tissue.obs["sample"] == "section_1").sum()
    assert len(axes[0, 0].collections[0].get_paths()) == n_spots


def test_domains_fills_the_lattice(tissue):
    section = tissue[tissue.obs["sample"] == "section_1"]
    circles = sagefm.pl.domains(section, "annotation")[0, 0].collections[0].get_paths()
    width = np.median([np.ptp(path.vertices[:, 0]) for path in circles])
    assert 100 <= width <= 120  # spots are 100 apart


def test_domains_leaves_the_data_alone(tissue):
    obs, uns = tissue.obs.copy(), set(tissue.uns)
    sagefm.pl.domains(tissue, "annotation", sample_key="sample")
    pd.testing.assert_frame_equal(tissue.obs, obs)
    assert set(tissue.uns) == uns


def test_domains_keeps_colours_that_are_set(tissue):
    section = tissue[tissue.obs["sample"] == "section_1"].copy()
    section.obs["half"] = pd.Categorical(np.where(np.arange(section.n_obs) % 2, "odd", "even"))
    section.uns["half_colors"] = ["#ff0000", "#00ff00"]
    faces = sagefm.pl.domains(section, "half")[0, 0].collections[0].get_facecolor()
    assert {to_hex(face) for face in faces} == {"#ff0000", "#00ff00"}


def test_domains_takes_many_categories_text_and_gaps(tissue):
    section = tissue[tissue.obs["sample"] == "section_1"].copy()
    section.obs["many"] = [f"group {i % 12}" for i in range(section.n_obs)]
    section.obs["gaps"] = section.obs["annotation"].cat.remove_categories(["layer_1"])
    assert sagefm.pl.domains(section, ["many", "gaps"]).shape == (1, 2)


def test_domains_draws_on_given_axes(tissue):
    _, axes = plt.subplots(2, 1)
    drawn = sagefm.pl.domains(tissue, "annotation", sample_key="sample", axes=axes)
    assert list(drawn.ravel()) == list(axes)
    with pytest.raises(ValueError, match=r"1 axes for 2 section\(s\)"):
        sagefm.pl.domains(tissue, "annotation", sample_key="sample", axes=axes[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "region"}, "'region' is not a column of obs"),
        ({"keys": "annotation", "sample_key": "slide"}, "'slide' is not a column of obs"),
        ({"keys": "annotation", "spatial_key": "xy"}, "spatial_key='xy' is not in obsm"),
    ],
)
def test_domains_names_what_is_missing(tissue, arguments, message):
    with pytest.raises(KeyError, match=message):
        sagefm.pl.domains(tissue, **arguments)
