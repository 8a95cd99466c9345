"""Controls of a perturbation: matched random genes in the place of the source, of the target, and of both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from sagefm.model.perturbation._counterfactual import Counterfactual, mean_effects
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._pairs import Pairs

# Control genes in the pool, for each one that a gene is compared with.
_POOL_TO_CONTROLS = 5


class ControlPool:
    """Random genes, from which each gene is given those nearest to it in mean and standard deviation.

    The pool does not depend on what is asked, so the controls of a pair do not depend on the other pairs.

    Parameters
    ----------
    mean, deviation
        Moments of every gene on the log scale, each (genes,); a gene that does not vary is never a control.
    n_controls
        Number of controls for each gene; fewer where the section has not as many genes that vary.
    seed
        Seed of the pool.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, n_controls: int, seed: int) -> None:
        varying = np.flatnonzero(deviation > 0)
        size = min(_POOL_TO_CONTROLS * n_controls, len(varying))
        self.genes = np.sort(np.random.default_rng(seed).choice(varying, size, replace=False))
        self._mean, self._deviation, self._n_controls = mean, deviation, n_controls
        self._tree = cKDTree(self._features(mean[self.genes], deviation[self.genes]))

    @staticmethod
    def _features(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(np.column_stack([mean, deviation]), 1e-9))

    def matched(self, parts: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Return the control genes for a gene, or for a complex by the mean of its `parts`; none of `excluded`."""
        place = self._features(self._mean[parts].mean(keepdims=True), self._deviation[parts].mean(keepdims=True))[0]
        k = min(self._n_controls + len(excluded), len(self.genes))
        nearest = self.genes[np.atleast_1d(self._tree.query(place, k=k)[1])]
        return nearest[~np.isin(nearest, excluded)][: self._n_controls]


class ControlEffects:
    """Effects of the sources and of their controls on the targets and on their controls, for every group of spots.

    Parameters
    ----------
    plain
        Counterfactuals whose targets are not hidden.
    levels
        Their first and last level are compared.
    groups
        Share of each row in each group, (groups, rows).
    deviation
        Standard deviation of every gene, (genes,).
    pool
        Where controls come from.
    asked
        The pairs.
    """

    def __init__(
        self,
        plain: Counterfactual,
        levels: Levels,
        groups: np.ndarray,
        deviation: np.ndarray,
        pool: ControlPool,
        asked: Pairs,
    ) -> None:
        self._asked, self._deviation = asked, deviation
        self._controls = [self._matched(pool, source, target) for source, target in asked.table.itertuples(index=False)]
        used_sources = np.unique(np.concatenate([sources for sources, _ in self._controls]))
        used_targets = np.unique(np.concatenate([targets for _, targets in self._controls]))
        targets = np.unique(np.concatenate(asked.parts_of("target", np.arange(len(asked.table)))))

        self._columns = np.union1d(used_targets, targets)
        jobs = {gene: (np.array([gene]), self._columns) for gene in used_sources.tolist()}
        for name, chosen in asked.by("source"):
            own = np.concatenate(asked.parts_of("target", chosen))
            jobs[name] = (asked.parts[name], np.union1d(used_targets, own))
        self._row = {key: row for row, key in enumerate(jobs)}
        self._effects = np.full((len(groups), len(jobs), len(self._columns)), np.nan, dtype=np.float32)
        for row, (source, read) in enumerate(jobs.values()):
            self._effects[:, row, self._places(read)] = mean_effects(plain, source, levels.ends, read, groups)

    def _matched(self, pool: ControlPool, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        parts = self._asked.parts
        pair = np.concatenate([parts[source], parts[target]])
        return pool.matched(parts[source], pair), pool.matched(parts[target], pair)

    def _places(self, genes: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._columns, genes)

    def of(self, pair: int) -> np.ndarray:
        """Return the grids of one pair, (groups, 1 + sources, 1 + targets), as :func:`standing` takes them.

        Where a control source meets itself as a control target there is NaN: no pair is a gene with itself.
        """
        source, target = self._asked.table.iloc[pair]
        (sources, targets), parts = self._controls[pair], self._asked.parts[target]
        effects = self._effects[:, [self._row[key] for key in (source, *sources.tolist())]]
        own = effects[:, :, self._places(parts)].mean(axis=2) / self._deviation[parts].mean()
        others = effects[:, :, self._places(targets)] / self._deviation[targets]
        others[:, 1:][:, sources[:, None] == targets] = np.nan
        return np.concatenate([own[:, :, None], others], axis=2)


class Standing(NamedTuple):
    """Where a pair stands among its controls: percentile of its effect, and p-value of what is its own."""

    percentile: float
    p: float


def standing(effects: np.ndarray) -> Standing:
    """Compare the pair in the corner of a grid of standardised effects, (1 + sources, 1 + targets), with the rest.

    Row 0 is the source, the other rows its controls; column 0 is the target, the others its controls; NaN is no cell.
    The percentile is that of the size of the effect in row 0 and column 0. The p-value is the rank of its interaction
    over the whole grid: row and column means are taken off and rows and columns brought to one spread, so that neither
    a source that moves everything nor a target that everything moves is enough. Every cell is treated alike; a random
    pair is therefore as likely to have any rank as another.
    """
    if not np.isfinite(effects[0, 0]) or effects.size == 1:
        return Standing(np.nan, np.nan)
    size = np.abs(effects)
    controls = np.concatenate([size[0, 1:], size[1:, 0]])
    interaction = np.abs(_interaction(effects))
    others = np.delete(interaction[np.isfinite(effects)], 0)
    p = (1 + np.count_nonzero(others >= interaction[0, 0])) / (1 + len(others))
    return Standing(100 * float(np.mean(controls < size[0, 0])), p)


def _interaction(effects: np.ndarray) -> np.ndarray:
    """Return what rows and columns alone do not tell, brought to the same spread in all of them."""
    rest = effects - np.nanmean(effects, axis=0) - np.nanmean(effects, axis=1, keepdims=True) + np.nanmean(effects)
    square = rest**2
    spread = np.sqrt(np.nanmean(square, axis=0) * np.nanmean(square, axis=1, keepdims=True))
    return np.divide(rest, spread, out=np.zeros_like(rest), where=spread > 0)
