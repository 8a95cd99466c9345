"""Sequential Monte Carlo p-values of pairs among their matched controls: more controls where the tail needs them."""

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
_ENOUGH = 20


def control_comparisons(
    screen: Screen, pools: Sequence[ControlPool], has_effect: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the columns that compare each pair with its controls, each (pairs, groups), and totals over all pairs.

    `has_effect`, (pairs, groups), is False for pairs that are not compared. Pairs and controls are compared without
    masking targets, on random spots of each group.
    """
    found, undecided = _compared(_on_random_spots(screen, seed), pools, has_effect)
    percentile, p, rank, number = np.moveaxis(found, 2, 0)
    n_controls = np.nan_to_num(number).astype(int)
    totals = {
        "n_compared": int(np.isfinite(p).sum()),
        "n_extended": int((n_controls > pools[0].n_controls).sum()),
        "n_at_limit": int(undecided.sum()),
        "n_control_pairs": round(np.nansum(rank / p - 1)),
        "smallest_p": pools[-1].smallest_p,
    }
    return {"control_percentile": percentile, "p": p, "n_controls": n_controls}, totals


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


def _compared(screen: Screen, pools: Sequence[ControlPool], undecided: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the comparisons, (pairs, groups, fields), and which pairs would go on to a further pool.

    Sequential Monte Carlo p-values of Besag and Clifford (Biometrika 1991): a pair goes on to the next pool, which is
    larger, while its rank is at most `_ENOUGH`. A reported p of at most x implies that the p of one pool, which
    depends on x only, is at most x, so it is as valid as the p of a fixed number of controls.
    """
    found = np.full((*undecided.shape, len(ControlComparison._fields)), np.nan)
    for pool in pools:
        rows = np.flatnonzero(undecided.any(axis=1))
        if not len(rows):
            break
        pairs = replace(screen.pairs, table=screen.pairs.table.iloc[rows])
        grids = _grids(replace(screen, pairs=pairs), pool)
        compared = np.array([[compare_with_controls(grid) for grid in by_group] for by_group in grids])
        found[rows] = np.where(undecided[rows, :, None], compared, found[rows])
        undecided = undecided & (found[..., ControlComparison._fields.index("rank")] <= _ENOUGH)
    return found, undecided


def _on_random_spots(screen: Screen, seed: int) -> Screen:
    rng, size = np.random.default_rng(seed), max(_MAX_SPOTS // len(screen.groups), _MIN_SPOTS_PER_GROUP)
    sample = np.sort(np.concatenate([rng.permutation(np.flatnonzero(group))[:size] for group in screen.groups]))
    groups = shares(screen.groups[:, sample] > 0)
    return replace(screen, counterfactual=screen.counterfactual.unmasked(sample), groups=groups)


class _Cells(NamedTuple):
    """The name of a source with its control genes, and the parts of a target with its control genes."""

    source: str
    control_sources: np.ndarray
    target: np.ndarray
    control_targets: np.ndarray


def _grids(screen: Screen, pool: ControlPool) -> Iterator[np.ndarray]:
    """Yield the standardised effects of each pair and its controls, (groups, 1 + sources, 1 + targets).

    Row 0 is the source and column 0 the target; the others are their controls. Where a control source is also a control
    target there is NaN, because a gene is not paired with itself.
    """
    parts, cells = screen.pairs.parts, []
    for source, target in screen.pairs.table.itertuples(index=False, name=None):
        excluded = np.concatenate([parts[source], parts[target]])
        controls = (pool.matched(parts[name], excluded) for name in (source, target))
        cells.append(_Cells(source, next(controls), parts[target], next(controls)))
    effects = _Effects(screen, cells)
    for cell in cells:
        yield effects.grid(cell)


class _Effects:
    """Effects of the sources and control sources of some pairs, each perturbed once for all pairs.

    Only the genes that the pairs of a source need are predicted.
    """

    def __init__(self, screen: Screen, cells: Sequence[_Cells]) -> None:
        self._deviation = screen.deviation
        self._own = {name: row for row, name in enumerate(dict.fromkeys(cell.source for cell in cells))}
        self._controls = np.unique(np.concatenate([cell.control_sources for cell in cells]))
        self._genes = np.unique(np.concatenate([genes for cell in cells for genes in cell[2:]]))
        sources = [*(screen.pairs.parts[name] for name in self._own), *self._controls[:, None]]
        needed = np.zeros((len(sources), len(self._genes)), dtype=bool)
        for cell in cells:
            needed[np.ix_(self._rows(cell), np.searchsorted(self._genes, np.concatenate(cell[2:])))] = True
        self._effects = np.full((len(screen.groups), *needed.shape), np.nan, dtype=np.float32)
        for row, source in enumerate(sources):
            self._effects[:, row, needed[row]] = screen.mean_effects(source, self._genes[needed[row]]).T

    def grid(self, cell: _Cells) -> np.ndarray:
        """Return the standardised effects of a pair and its controls."""
        rows = self._rows(cell)[:, None]
        own, others = (self._effects[:, rows, np.searchsorted(self._genes, genes)] for genes in cell[2:])
        own = own.mean(axis=2, keepdims=True) / self._deviation[cell.target].mean()
        others = others / self._deviation[cell.control_targets]
        others[:, 1:][:, cell.control_sources[:, None] == cell.control_targets] = np.nan
        return np.concatenate([own, others], axis=2)

    def _rows(self, cell: _Cells) -> np.ndarray:
        controls = np.searchsorted(self._controls, cell.control_sources) + len(self._own)
        return np.concatenate([[self._own[cell.source]], controls])
