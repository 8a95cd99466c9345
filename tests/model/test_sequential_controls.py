"""Sequential Monte Carlo p-values: valid under the null, with more controls only for pairs in the tail."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, kstest

from sagefm.model.perturbation import _sequential as sequential
from sagefm.model.perturbation import compare_with_controls
from sagefm.model.perturbation._controls import POOL_FACTOR, control_pools
from sagefm.model.perturbation._effects import Screen
from sagefm.model.perturbation._pairs import Pairs

N_GENES = 1000
MOMENTS = np.exp(np.random.default_rng(3).normal(size=(2, N_GENES)))


@pytest.fixture
def compare(monkeypatch):
    """Compare pairs of genes, by position, with their controls, given the effects of all genes on all genes."""
    monkeypatch.setattr(sequential, "_on_random_spots", lambda screen, seed: screen)

    def compared(effects: np.ndarray, pairs: np.ndarray, n_controls: int = 10, max_controls: int = 100, seed: int = 0):
        monkeypatch.setattr(Screen, "mean_effects", lambda self, source, genes: effects[source].mean(0)[genes, None])
        table = pd.DataFrame(pairs.astype(str), columns=["source", "target"])
        parts = {str(gene): np.array([gene]) for gene in np.unique(pairs)}
        screen = Screen(None, Pairs(table, parts), None, np.ones((1, 1)), np.ones(N_GENES))
        pools = control_pools(*MOMENTS, n_controls, max_controls, seed)
        columns, totals = sequential.control_comparisons(screen, pools, np.ones((len(pairs), 1), dtype=bool), seed=0)
        return {name: values[:, 0] for name, values in columns.items()}, totals

    return compared


def null_effects(seed: int = 0) -> np.ndarray:
    """Effects without interaction except noise, of sources and targets of very different strength."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.gamma(1, 1, (2, N_GENES))
    return np.outer(rows, columns) * rng.standard_t(5, (N_GENES, N_GENES))


def random_pairs(n: int) -> np.ndarray:
    drawn = np.unique(np.random.default_rng(1).integers(N_GENES, size=(2 * n, 2)), axis=0)
    return np.random.default_rng(2).permutation(drawn[drawn[:, 0] != drawn[:, 1]])[:n]


def test_p_is_uniform_without_interactions(compare):
    """Pairs share the control genes of one pool, so the shares are those of several pools."""
    found = [compare(null_effects(seed), random_pairs(300), 50, 200, seed) for seed in range(8)]
    p = np.concatenate([columns["p"] for columns, _ in found])
    assert 0.04 < np.mean(p < 0.05) < 0.06 and np.mean(p < 0.01) < 0.015
    assert kstest(p, "uniform").pvalue > 0.01
    assert sum((false_discovery_control(columns["p"]) < 0.05).sum() for columns, _ in found) < 0.01 * len(p)
    assert sum(totals["n_compared"] for _, totals in found) == len(p)
    assert 0 < sum(totals["n_extended"] for _, totals in found) < 0.03 * len(p)


def test_a_strong_pair_among_many_is_found_which_the_first_controls_cannot_show(compare):
    effects, pairs = null_effects(), random_pairs(1104)
    source, target = pairs[500]
    effects[source, target] += 100 * effects[source].std()
    few, _ = compare(effects, pairs, max_controls=0)
    many, totals = compare(effects, pairs, max_controls=200)
    assert false_discovery_control(few["p"])[500] > 0.05
    q = false_discovery_control(many["p"])
    assert q[500] < 0.05 and (np.delete(q, 500) > 0.05).all()
    assert many["n_controls"][500] == 200 and many["p"][500] == pytest.approx(totals["smallest_p"], rel=0.02)


def test_more_controls_only_for_pairs_in_the_tail(compare):
    effects, pairs = null_effects(), random_pairs(500)
    first, _ = compare(effects, pairs, max_controls=0)
    columns, totals = compare(effects, pairs, max_controls=40)
    n_controls, p, stopped = columns["n_controls"], columns["p"], columns["n_controls"] == 10
    assert set(n_controls) == {10, 20, 40}
    np.testing.assert_array_equal(p[stopped], first["p"][stopped])
    enough = sequential._ENOUGH
    assert first["p"][~stopped].max() <= enough / (11**2 - 10) and enough / 11**2 < first["p"][stopped].min()
    assert totals["n_extended"] == (~stopped).sum()
    assert 0 < totals["n_at_limit"] == (np.round(p[n_controls == 40] * 41**2) <= enough).sum()
    assert totals["n_control_pairs"] == pytest.approx(((n_controls + 1) ** 2 - 1).sum(), rel=0.05)


def test_neither_order_nor_other_pairs_change_a_pair(compare):
    effects, pairs = null_effects(), random_pairs(300)
    columns, _ = compare(effects, pairs)
    reverse, _ = compare(effects, pairs[::-1])
    part, _ = compare(effects, pairs[:40])
    for name, values in columns.items():
        np.testing.assert_array_equal(values, reverse[name][::-1])
        np.testing.assert_array_equal(values[:40], part[name])


@pytest.mark.parametrize("size", [6, 30, 1e3, 1e6])
def test_a_pair_does_not_hide_itself(size):
    """A strong pair raises the spread of its row and column, which it must not be divided by."""
    effects = np.random.default_rng(0).normal(size=(101, 101))
    effects[0, 0] = size
    assert compare_with_controls(effects).p == 1 / effects.size


def test_pools_grow_and_never_match_less_closely():
    def numbers(n_controls: int, max_controls: int) -> list[int]:
        return [pool.n_controls for pool in control_pools(*MOMENTS, n_controls, max_controls, seed=0)]

    assert numbers(20, 120) == [20, 40, 80, 120] and numbers(20, 0) == numbers(20, 20) == [20] and numbers(0, 50) == []
    assert numbers(150, 10_000) == [150, N_GENES // POOL_FACTOR] and numbers(500, 10_000) == [500]
    small, large = control_pools(*MOMENTS, 50, 100, seed=0)
    assert set(small.genes) < set(large.genes) and len(large.genes) == POOL_FACTOR * 100
    assert large.smallest_p == 1 / 101**2


def test_table_and_log_report_the_controls(trained_model, caplog):
    arguments = {"sources": ["LIG1", "LIG2"], "targets": ["TGT1", "TGT2"]}
    table = trained_model.perturb(**arguments, n_controls=2)
    limit = table["n_controls"].max()
    assert set(table["n_controls"]) <= {4, 8, 16, limit} and 25 < limit <= 30  # a fifth of the genes that vary
    assert {"n_compared": 4, "n_extended": 4, "n_controls": 2, "max_controls": 400}.items() <= table.attrs.items()
    assert table.attrs["smallest_p"] == 1 / (limit + 1) ** 2
    lines = [record.message for record in caplog.records if "compared with more than 2 controls" in record.message]
    assert len(lines) == 1 and "4 of 4 pairs" in lines[0] and f"up to {limit}." in lines[0]
    none = trained_model.perturb(**arguments, n_controls=0)
    assert none["n_controls"].tolist() == [0] * 4 and "smallest_p" not in none.attrs


@pytest.mark.parametrize(
    ("n_controls", "n_extended", "n_at_limit", "max_controls", "expected"),
    [
        (100, 3, 1, 400, "no more than 200 matched controls of a gene. The smallest possible p is 2.5e-05"),
        (100, 3, 0, 400, "3 of 1104 pairs are compared with more than 100 controls, up to 200. The smallest"),
        (100, 3, 1, 150, "q for a single pair with it 0.048"),
        (300, 0, 1, 400, "0 of 1104 pairs are compared with more than 300 controls; the 1000 genes that vary give no"),
    ],
)
def test_log_gives_the_smallest_p_and_says_when_matched_genes_run_out(
    caplog, n_controls, n_extended, n_at_limit, max_controls, expected
):
    pools = control_pools(*MOMENTS, n_controls, max_controls, seed=0)
    totals = {
        "n_compared": 1104,
        "n_extended": n_extended,
        "n_at_limit": n_at_limit,
        "smallest_p": pools[-1].smallest_p,
    }
    sequential.log_controls(totals, pools, max_controls)
    assert expected in caplog.text
    caplog.clear()
    sequential.log_controls(totals | {"n_extended": 0, "n_at_limit": 0}, pools, max_controls)
    assert not caplog.text
