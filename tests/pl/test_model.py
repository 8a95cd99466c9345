"""Plots of recovery and of the training history."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sagefm


@pytest.fixture
def table():
    columns = {"r": [0.5, 0.1, np.nan], "r_neighbors": [0.2, 0.3, np.nan], "mean_expression": [2.0, 0.1, 0.0]}
    return pd.DataFrame(columns, index=["MBP", "CD3E", "ABSENT"])


def test_recovery_has_neighbours_on_x_and_model_on_y(table):
    ax = sagefm.pl.recovery(table)
    dots = sorted(map(tuple, ax.collections[0].get_offsets()))
    assert dots == [(0.2, 0.5), (0.3, 0.1)]
    assert ax.get_xlabel() == "r of the mean of the neighbours"
    assert ax.get_ylabel() == "r of the model"


def test_recovery_draws_the_most_expressed_genes_last(table):
    colours = sagefm.pl.recovery(table).collections[0].get_array()
    assert list(colours) == [0.1, 2.0]


def test_title_of_recovery_has_the_totals(trained_model):
    table = trained_model.get_masked_recovery()
    ax = sagefm.pl.recovery(table)
    assert f"model {table.attrs['top500_r']:.2f}" in ax.get_title()
    assert f"{table.attrs['n_genes']} most expressed" in ax.get_title()
    table.attrs.clear()
    assert sagefm.pl.recovery(table).get_title() == ""


def test_recovery_is_drawn_on_given_axes(table):
    _, ax = plt.subplots()
    assert sagefm.pl.recovery(table, ax=ax) is ax


def test_recovery_refuses_a_table_without_its_columns(table):
    with pytest.raises(KeyError, match="no column 'r_neighbors'"):
        sagefm.pl.recovery(table.drop(columns="r_neighbors"))


def test_history_draws_both_losses(trained_model):
    _, given = plt.subplots()
    ax = sagefm.pl.history(trained_model, ax=given)
    assert ax is given
    assert [line.get_label() for line in ax.lines] == ["training", "validation"]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3, 4, 5])
    losses = trained_model.history["validation_loss"].to_numpy(float).ravel()
    np.testing.assert_allclose(ax.lines[1].get_ydata(), losses)


def test_history_of_untrained_models_and_without_validation(adata):
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    with pytest.raises(RuntimeError, match="untrained"):
        sagefm.pl.history(model)
    model.train(max_epochs=1, train_size=1.0, enable_progress_bar=False)
    assert [line.get_label() for line in sagefm.pl.history(model).lines] == ["training"]
