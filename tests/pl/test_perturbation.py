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
            "q": [0.5, 0.04, 0.4, 0.4, np.nan, np.nan],
        }
    )


def test_dots_are_ordered_by_p_sized_by_q_and_counted_in_the_title(table):
    ax = sagefm.pl.perturbation_dots(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A → T", "B → T"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]
    np.testing.assert_array_equal(ax.collections[0].get_array(), table["scaled_effect"].dropna())
    sizes = ax.collections[0].get_sizes()
    assert np.argmax(sizes) == 1 and sizes[2] == sizes[3]
    assert ax.get_title() == "1 of 2 pairs have q < 0.05"
    assert sagefm.pl.perturbation_dots(table, n_pairs=1).get_title() == "1 of 2 pairs have q < 0.05"
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "q"
    assert [text.get_text() for text in legend.get_texts()] == ["1", "0.05", "0.01", "0.001"]


def test_a_dot_of_the_same_q_has_the_same_size_in_every_table(table):
    sizes = [sagefm.pl.perturbation_dots(part).collections[0].get_sizes()[0] for part in (table, table[:1])]
    assert sizes[0] == sizes[1]


def test_dots_without_groups_and_without_p(table):
    without = table[:4].drop(columns="group").assign(p=np.nan, q=np.nan)
    ax = sagefm.pl.perturbation_dots(without, n_pairs=1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B → T"]
    assert ax.get_title() == "0 of 2 pairs have q < 0.05"


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


def test_effect_map_diverges_around_zero_on_one_scale_with_a_labelled_bar(adata):
    halves = np.where(np.arange(adata.n_obs) < 100, "a", "b")
    adata.obs["half"] = halves
    response = pd.DataFrame({0.0: 0.0, 1.0: np.where(halves == "a", -0.2, 0.1)}, index=adata.obs_names)
    grid = sagefm.pl.effect_map(adata, response, label="effect of A", sample_key="half")
    for ax, section in zip(grid[:, 0], "ab", strict=True):
        dots = ax.collections[0]
        assert dots.norm(0) == 0.5 and dots.norm.vmax == pytest.approx(0.2)
        assert dots.colorbar.ax.get_ylabel() == "effect of A" and ax.get_title() == section
    flat = sagefm.pl.effect_map(adata, 0 * response)[0, 0].collections[0]
    assert flat.norm(0) == 0.5


def test_influence_bars_have_no_axis_offset():
    table = pd.DataFrame({"target": "T", "gene": list("AB"), "center_size": 3e-5, "neighbors_size": [2e-5, 1e-5]})
    ax = sagefm.pl.influence_bars(table)
    ax.figure.canvas.draw()
    assert ax.xaxis.get_offset_text().get_text() == ""
    assert "2e−05" in [label.get_text() for label in ax.get_xticklabels()]


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
