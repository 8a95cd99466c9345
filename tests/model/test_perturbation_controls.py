"""Matched controls: their choice, and the percentile and p-value of a pair among them."""

import numpy as np
import pytest
from scipy.stats import kstest

from sagefm.model.perturbation import ControlPool, compare_with_controls


def test_controls_match_in_mean_and_deviation_and_exclude_the_pair():
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(size=500))
    mean[:20] = 0  # genes that do not vary
    pool = ControlPool(mean, mean**0.7, n_controls=10, seed=0)
    assert len(pool.genes) == 50 and (mean[pool.genes] > 0).all()
    near = pool.matched(np.array([100]), np.array([100, pool.genes[0]]))
    assert len(near) == 10 and not {100, pool.genes[0]} & set(near)
    others = np.setdiff1d(pool.genes, [*near, 100, pool.genes[0]])
    ratio = np.abs(np.log(mean[near] / mean[100])), np.abs(np.log(mean[others] / mean[100]))
    assert ratio[0].max() <= ratio[1].min()


def test_p_is_uniform_without_interactions():
    """Rows and columns of very different strength, and no interaction except noise: every rank is equally likely."""
    rng = np.random.default_rng(0)
    strengths = rng.gamma(1, 1, (600, 2, 21))
    grids = [np.outer(rows, columns) * rng.normal(size=(21, 21)) for rows, columns in strengths]
    p = [compare_with_controls(grid).p for grid in grids]
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("effects", [[[3.0]], [[np.nan, 1.0], [1.0, 2.0]]], ids=["no control", "no effect"])
def test_no_comparison_without_controls_or_effect(effects):
    assert np.isnan(compare_with_controls(np.array(effects))).all()


def test_p_is_small_for_an_interaction_and_not_for_a_strong_source_or_target():
    noise = np.random.default_rng(1).normal(size=(41, 41))
    noise[0, 0] = 0.1
    effect = np.zeros_like(noise)
    effect[0, 0] = 8
    comparison = compare_with_controls(noise + effect)
    assert comparison.p < 0.01 and comparison.percentile > 95
    strong = noise.copy()
    strong[0] = 50 + 20 * strong[0]
    strong[:, 0] += 30
    assert compare_with_controls(strong).p > 0.1


def test_missing_entries_do_not_count():
    noise = np.random.default_rng(1).normal(size=(41, 41))
    noise[0, 0] = 8
    noise[np.arange(1, 41), np.arange(1, 41)] = np.nan
    rank = compare_with_controls(noise).p * (41 * 41 - 40)
    assert rank == pytest.approx(round(rank)) and rank < 5


def test_a_control_gene_is_never_compared_with_itself(trained_model, monkeypatch):
    """Control sources and targets come from one pool, and a gene predicts itself best."""
    grids = []
    monkeypatch.setattr(
        "sagefm.model.perturbation._sequential.compare_with_controls",
        lambda grid: grids.append(grid) or compare_with_controls(grid),
    )
    table = trained_model.perturb("LIG1", "TGT1", n_controls=60)
    (grid,) = grids
    missing = np.isnan(grid)
    assert 0 < missing.sum() <= 60 and not missing[0].any() and not missing[:, 0].any()
    assert (missing.sum(axis=0) <= 1).all() and (missing.sum(axis=1) <= 1).all()
    assert np.isfinite(table["p"]).all()
