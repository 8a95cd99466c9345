"""Differences between sagefm and other methods, from which the benchmark tables say what is better and what is tied."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "quality"))

from _differences import MIN_SECTIONS, by_group, mean_difference, paired


def scores(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """Return rows of domains.csv, one for each (section, method, smooth, ARI)."""
    table = pd.DataFrame(rows, columns=["dataset", "method", "smooth", "value"])
    return table.assign(seed=0, clustering="gmm", metric="ARI")


def test_a_section_is_compared_with_itself():
    """The sections a method has no score of are left out, and sagefm is always clustered by its default."""
    table = scores(
        ("heart_4", "sagefm", "0", 0.9),
        ("heart_4", "sagefm", "auto", 0.5),
        ("heart_4", "pca", "0", 0.1),
        ("heart_4", "pca", "auto", 0.2),
        ("heart_5", "sagefm", "auto", 0.3),
    )
    assert paired(table, "auto")["pca"].dropna().to_dict() == pytest.approx({"heart_4": 0.3})
    assert paired(table, "0")["pca"].dropna().to_dict() == pytest.approx({"heart_4": 0.4})


def test_other_smoothing_of_sagefm_is_a_method_of_its_own():
    table = scores(("heart_4", "sagefm", "1", 0.4), ("heart_4", "sagefm", "auto", 0.5))
    assert paired(table, "1")["sagefm"].to_dict() == pytest.approx({"heart_4": 0.1})
    assert "sagefm" not in paired(table, "auto")


def test_seeds_are_averaged_within_a_section():
    table = pd.concat(
        [scores(("heart_4", "sagefm", "auto", value)).assign(seed=value > 0.5) for value in (0.2, 0.4, 0.9)]
    )
    table = pd.concat([table, scores(("heart_4", "pca", "auto", 0.5))])
    assert paired(table, "auto").loc["heart_4", "pca"] == pytest.approx((0.3 + 0.9) / 2 - 0.5)


def test_interval_of_normal_differences_is_about_two_standard_errors():
    values = pd.Series(np.random.default_rng(0).normal(0.1, 0.2, size=50))
    found = mean_difference(values)
    half = 1.96 * values.std(ddof=0) / np.sqrt(50)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert str(found) == f"**{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]**"


def test_interval_with_zero_is_not_bold():
    assert "**" not in str(mean_difference(pd.Series([-0.2, -0.1, 0.1, 0.3, 0.1])))


def test_few_sections_have_a_mean_and_no_interval():
    found = mean_difference(pd.Series([0.1] * (MIN_SECTIONS - 2) + [0.4, np.nan]))
    assert np.isnan([found.low, found.high]).all()
    assert found.n == MIN_SECTIONS - 1
    assert str(mean_difference(pd.Series([np.nan]))) == ""


def test_groups_share_no_section_and_cover_all():
    differences = paired(scores(("heart_4", "sagefm", "auto", 0.5), ("heart_4", "pca", "auto", 0.2)), "auto")
    n = {group: found["pca"].n for group, found in by_group(differences).items()}
    assert n["all"] == 1
    assert sum(n.values()) == 2
