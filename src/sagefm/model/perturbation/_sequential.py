"""Sequential Monte Carlo p-values of pairs among their matched controls, with more controls where the tail needs them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sagefm._logging import logger
from sagefm.data import shares
from sagefm.model.perturbation._controls import ControlComparison, ControlPool, compare_with_controls
from sagefm.model.perturbation._effects import Screen

# Effects differ far more between pairs than between spots, so some of the spots are enough to compare with controls.
_MAX_SPOTS, _MIN_SPOTS_PER_GROUP = 512, 64
# A pair is compared with more controls while its rank among them is at most this.
_ENOUGH = 10


def control_comparisons(
    screen: Screen, pools: Sequence[ControlPool], has_effect: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the columns that compare each pair with its controls, each (pairs, groups), and totals.

    Sequential Monte Carlo p-values of Besag and Clifford (Biometrika 1991): pairs go on to the next of the `pools`,
    which grow, as long as at most `_ENOUGH` entries of the grid, the pair included, are as large as the pair. A reported
    p of at most x then implies that the p of one stage, which depends on x only, is at most x, so it is as valid as the
    p of a fixed number of controls. `has_effect`, (pairs, groups), is False for pairs that are not compared. Pairs and
    controls are compared without masking targets, on random spots of each group.
    """
    sampled, undecided = _on_random_spots(screen, seed), has_effect
    found = np.full((*has_effect.shape, len(ControlComparison._fields)), np.nan)
    for pool in pools:
        rows = np.flatnonzero(undecided.any(axis=1))
        if not len(rows):
            break
        pairs = replace(screen.pairs, table=screen.pairs.table.iloc[rows])
        grids = _grids(replace(sampled, pairs=pairs), pool)
        compared = np.array([[compare_with_controls(grid) for grid in by_group] for by_group in grids])
        found[rows] = np.where(undecided[rows, :, None], compared, found[rows])
        undecided = undecided & (found[..., ControlComparison._fields.index("rank")] <= _ENOUGH)
    percentile, p, rank, n_controls = np.moveaxis(found, 2, 0)
    columns = {"control_percentile": percentile, "p": p, "n_controls": np.nan_to_num(n_controls).astype(int)}
    totals = {
        "n_compared": int(np.isfinite(p).sum()),
        "n_extended": int((columns["n_controls"] > pools[0].n_controls).sum()),
        "n_at_limit": int(undecided.sum()),
        "n_control_pairs": round(np.nansum(rank / p - 1)),
        "smallest_p": pools[-1].smallest_p,
    }
    return columns, totals


def log_controls(totals: dict[str, float], pools: Sequence[ControlPool], max_controls: int) -> None:
    """Log how many pairs are compared with more controls, the smallest possible p and q, and what limits them."""
    first, last, smallest = pools[0].n_controls, pools[-1], totals["smallest_p"]
    exhausted = last.n_controls < max_controls and totals["n_at_limit"]
    if not (totals["n_extended"] or exhausted):
        return
    text = f"{totals['n_extended']} of {totals['n_compared']} pairs are compared with more than {first} controls"
    text += f", up to {last.n_controls}" * (last.n_controls > first)
    if exhausted:
        text += f"; the {last.n_varying} genes that vary give no more than {last.n_controls} matched controls of a gene"
    q = min(1, smallest * totals["n_compared"])
    logger.info(f"{text}. The smallest possible p is {smallest:.1e}, and q for a single pair with it {q:.2g}.")


def _on_random_spots(screen: Screen, seed: int) -> Screen:
    rng, size = np.random.default_rng(seed), max(_MAX_SPOTS // len(screen.groups), _MIN_SPOTS_PER_GROUP)
    sample = np.sort(np.concatenate([rng.permutation(np.flatnonzero(group))[:size] for group in screen.groups]))
    groups = shares(screen.groups[:, sample] > 0)
    return replace(screen, counterfactual=screen.counterfactual.unmasked(sample), groups=groups)


class _Cells(NamedTuple):
    """Sources, as tuples of parts with the source of the pair first, control targets, and parts of the target."""

    sources: list[tuple[int, ...]]
    controls: np.ndarray
    target: np.ndarray


def _grids(screen: Screen, pool: ControlPool) -> Iterator[np.ndarray]:
    """Yield the standardised effects of each pair and its controls, (groups, 1 + sources, 1 + targets).

    Row 0 is the source and column 0 the target; the others are their controls. Where a control source is also a control
    target there is NaN, because a gene is not paired with itself. A source is perturbed once for all pairs, and only
    the genes that its pairs need are predicted.
    """
    cells = [_cells(screen, pool, *pair) for pair in screen.pairs.table.itertuples(index=False, name=None)]
    sources = {source: row for row, source in enumerate(dict.fromkeys(s for cell in cells for s in cell.sources))}
    genes = np.unique(np.concatenate([part for cell in cells for part in (cell.controls, cell.target)]))
    rows = [np.array([sources[source] for source in cell.sources]) for cell in cells]
    needed = np.zeros((len(sources), len(genes)), dtype=bool)
    for row, cell in zip(rows, cells, strict=True):
        for part in (cell.controls, cell.target):
            needed[np.ix_(row, np.searchsorted(genes, part))] = True
    effects = np.full((len(screen.groups), *needed.shape), np.nan, dtype=np.float32)
    for source, row in sources.items():
        effects[:, row, needed[row]] = screen.mean_effects(np.array(source), genes[needed[row]]).T
    for row, cell in zip(rows, cells, strict=True):
        yield _grid(effects, row, cell, genes, screen.deviation)


def _cells(screen: Screen, pool: ControlPool, source: str, target: str) -> _Cells:
    own, target_parts = screen.pairs.parts[source], screen.pairs.parts[target]
    excluded = np.concatenate([own, target_parts])
    sources = [(gene,) for gene in pool.matched(own, excluded).tolist()]
    return _Cells([tuple(own.tolist()), *sources], pool.matched(target_parts, excluded), target_parts)


def _grid(
    effects: np.ndarray, rows: np.ndarray, cell: _Cells, genes: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    def of(targets: np.ndarray) -> np.ndarray:
        return effects[:, rows[:, None], np.searchsorted(genes, targets)]

    own = of(cell.target).mean(axis=2, keepdims=True) / deviation[cell.target].mean()
    others = of(cell.controls) / deviation[cell.controls]
    controls = np.array([source for (source,) in cell.sources[1:]], dtype=int)
    others[:, 1:][:, controls[:, None] == cell.controls] = np.nan
    return np.concatenate([own, others], axis=2)
