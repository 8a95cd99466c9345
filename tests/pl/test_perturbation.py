"""Plots of perturbations and of gene influence."""

import numpy as np
import pandas as pd
import pytest

import sagefm


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": ["A", "A", "B", "B", "C", "C"],
            "target": "T",
            "group": ["x", "y"] * 3,
            "scaled_effect": [0.1, 0.2, -0.3, -0.1, np.nan, np.nan],
            "p": [0.5, 0.01, 0.2, 0.3, np.nan, np.nan],
        }
    )


def test_dots_are_ordered_and_sized_by_p(table):
    ax = sagefm.pl.perturbation_dots(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A → T", "B → T"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]
    np.testing.assert_array_equal(ax.collections[0].get_array(), table["scaled_effect"].dropna())
    assert np.argmax(ax.collections[0].get_sizes()) == 1


def test_dots_without_groups_and_without_p(table):
    ax = sagefm.pl.perturbation_dots(table[:4].drop(columns="group").assign(p=np.nan), n_pairs=1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B → T"]


def test_dose_response_draws_means_and_adds_curves_to_given_axes():
    response = pd.DataFrame([[0.0, 1.0], [1.0, 3.0]], columns=pd.Index([0.0, 2.0], name="A"))
    ax = sagefm.pl.dose_response(response, label="one")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 0.5], [2, 2]])
    assert sagefm.pl.dose_response(response + 1, label="two", ax=ax) is ax
    assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_effect_map_shows_the_last_minus_the_first_level(adata):
    response = pd.DataFrame(np.arange(2.0 * adata.n_obs).reshape(-1, 2) ** 2, index=adata.obs_names)
    drawn = sagefm.pl.effect_map(adata, response[::-1])[0, 0].collections[0].get_array()
    np.testing.assert_allclose(drawn, response[1] - response[0])
    with pytest.raises(KeyError, match="computed for"):
        sagefm.pl.effect_map(adata, response.set_axis(adata.obs_names + "x"))


def test_influence_bars_draw_the_largest_genes():
    sizes = {"center_size": [0.1, 0.3, 0.0], "neighbors_size": [0.5, 0.1, 0.2]}
    table = pd.DataFrame({"target": "T", "gene": list("ABC"), **sizes})
    ax = sagefm.pl.influence_bars(table, n_genes=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B"]
    assert [bar.get_width() for bar in ax.containers[1]] == [0.5, 0.1]
    with pytest.raises(KeyError, match="no target 'U'"):
        sagefm.pl.influence_bars(table, "U")


def test_other_tables_are_refused():
    for plot in (sagefm.pl.perturbation_dots, sagefm.pl.influence_bars):
        with pytest.raises(KeyError, match="pass one from `SAGEFM"):
            plot(pd.DataFrame({"a": [1]}))
