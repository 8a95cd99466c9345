"""Matched controls of a pair: random genes in place of its source, of its target, and of both."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from sagefm.data import shares
from sagefm.model.perturbation._counterfactual import Readout
from sagefm.model.perturbation._effects import Screen, can_move

# Size of the pool, as a multiple of the number of controls for each gene.
_POOL_FACTOR = 5
# Effects differ far more between pairs than between spots, so some of the spots are enough to compare with controls.
_MAX_SPOTS, _MIN_SPOTS_PER_GROUP = 512, 64


class ControlPool:
    """Random genes, of which those closest to a gene in mean and standard deviation are its controls.

    The pool does not depend on the requested pairs, so the controls of a pair do not depend on the other pairs.

    Parameters
    ----------
    mean, deviation
        Mean and standard deviation of every gene on the log scale, each (genes,); a gene that does not vary is never
        a control.
    n_controls
        Number of controls for each gene; fewer if the section has fewer genes that vary.
    seed
        Seed of the pool.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, n_controls: int, seed: int) -> None:
        varying = np.flatnonzero(deviation > 0)
        size = min(_POOL_FACTOR * n_controls, len(varying))
        self.genes = np.sort(np.random.default_rng(seed).choice(varying, size, replace=False))
        self._moments, self._n_controls = np.column_stack([mean, deviation]), n_controls
        self._tree = cKDTree(np.log(self._moments[self.genes]))

    def matched(self, parts: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Return the controls of a gene, or of a complex by the mean over its `parts`, none of them `excluded`."""
        k = min(self._n_controls + len(excluded), len(self.genes))
        moments = np.maximum(self._moments[parts].mean(axis=0), 1e-9)  # zero for a gene without counts
        _, nearest = self._tree.query(np.log(moments), k=k)
        genes = self.genes[np.atleast_1d(nearest)]
        return genes[~np.isin(genes, excluded)][: self._n_controls]


def control_comparisons(screen: Screen, pool: ControlPool, seed: int) -> dict[str, np.ndarray]:
    """Return the columns that compare each pair with its controls, each (pairs, groups).

    Pairs and controls are compared without masking targets, on random spots of each group.
    """
    rng, size = np.random.default_rng(seed), max(_MAX_SPOTS // len(screen.groups), _MIN_SPOTS_PER_GROUP)
    sample = np.sort(np.concatenate([rng.permutation(np.flatnonzero(group))[:size] for group in screen.groups]))
    groups = shares(screen.groups[:, sample] > 0)
    sampled = replace(screen, counterfactual=screen.counterfactual.unmasked(sample), groups=groups)
    grids = _grids(sampled, pool)
    found = np.array([[compare_with_controls(grid) for grid in np.moveaxis(by_group, 2, 0)] for by_group in grids])
    return {"control_percentile": found[..., 0], "p": found[..., 1]}


def _grids(screen: Screen, pool: ControlPool) -> Iterator[np.ndarray]:
    """Yield the standardised effects of each pair and its controls, (1 + sources, 1 + targets, groups).

    Row 0 is the source and column 0 the target; the others are their controls. Where a control source is also a control
    target there is NaN, because a gene is not paired with itself.
    """
    pairs, parts, deviation = screen.pairs, screen.pairs.parts, screen.deviation
    names, controls = list(pairs.table.itertuples(index=False, name=None)), []
    for source, target in names:
        excluded = np.concatenate([parts[source], parts[target]])
        controls.append((pool.matched(parts[source], excluded), pool.matched(parts[target], excluded)))
    control_sources, control_targets = (np.unique(np.concatenate(genes)) for genes in zip(*controls, strict=True))
    genes = np.union1d(control_targets, np.concatenate(pairs.parts_of("target")))
    unknown = np.full((len(genes), len(screen.groups)), np.nan, dtype=np.float32)

    def effects_of(source: np.ndarray, read: np.ndarray) -> np.ndarray:
        """Return the effects of a source on all `genes`, (genes, groups), NaN for those that are not `read`."""
        effects = unknown.copy()
        effects[np.searchsorted(genes, read)] = screen.summarize(source, screen.levels.ends, Readout(read)).effect
        return effects

    effects = {gene: effects_of(np.array([gene]), genes) for gene in control_sources.tolist()}
    for source, rows in pairs.by("source").items():
        if can_move(screen.counterfactual.dose(parts[source], screen.levels)):
            own_targets = np.concatenate(pairs.parts_of("target", rows))
            effects[source] = effects_of(parts[source], np.union1d(control_targets, own_targets))
    for (source, target), (sources, targets) in zip(names, controls, strict=True):
        grid = np.stack([effects.get(key, unknown) for key in (source, *sources.tolist())])
        own = grid[:, np.searchsorted(genes, parts[target])].mean(axis=1) / deviation[parts[target]].mean()
        others = grid[:, np.searchsorted(genes, targets)] / deviation[targets, None]
        others[1:][sources[:, None] == targets] = np.nan
        yield np.concatenate([own[:, None], others], axis=1)


class ControlComparison(NamedTuple):
    """Percentile of the size of an effect among its controls, and empirical p-value of its interaction residual."""

    percentile: float
    p: float


def compare_with_controls(effects: np.ndarray) -> ControlComparison:
    """Compare the pair in the corner of a grid of standardised effects, (1 + sources, 1 + targets), with its controls.

    Row 0 is the source and the other rows are its controls; column 0 is the target and the other columns are its
    controls; NaN entries are ignored. The percentile is that of the size of the pair's effect within row 0 and column
    0. The p-value is the rank of the size of its interaction residual over the whole grid, so neither a source that
    affects everything nor a target that is affected by everything is enough for a small one. All entries are treated
    in the same way, so every rank is equally likely for a random pair.
    """
    if not np.isfinite(effects[0, 0]) or effects.size == 1:
        return ControlComparison(np.nan, np.nan)
    size = np.abs(effects)
    controls = np.concatenate([size[0, 1:], size[1:, 0]])
    residuals = np.abs(_interaction_residuals(effects))[np.isfinite(effects)]
    return ControlComparison(100 * np.mean(controls < size[0, 0]), np.mean(residuals >= residuals[0]))


def _interaction_residuals(effects: np.ndarray) -> np.ndarray:
    """Return the residuals after removing row and column means, with rows and columns scaled to the same spread."""
    rest = effects - np.nanmean(effects, axis=0) - np.nanmean(effects, axis=1, keepdims=True) + np.nanmean(effects)
    square = rest**2
    spread = np.sqrt(np.nanmean(square, axis=0) * np.nanmean(square, axis=1, keepdims=True))
    return np.divide(rest, spread, out=np.zeros_like(rest), where=spread > 0)
