"""Matched controls of a pair: random genes in place of its source, of its target, and of both."""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

# Size of the pool, as a multiple of the number of controls for each gene.
POOL_FACTOR = 5


class ControlPool:
    """Random genes, of which those closest to a gene in mean and standard deviation are its controls.

    The pool does not depend on the requested pairs, so the controls of a pair do not depend on the other pairs. With
    the same seed, a pool contains all smaller ones.

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
        self.genes = np.sort(np.random.default_rng(seed).permutation(varying)[: POOL_FACTOR * n_controls])
        self.n_controls, self.n_varying = n_controls, len(varying)
        self._moments = np.column_stack([mean, deviation])
        self._tree = cKDTree(np.log(self._moments[self.genes]))

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that a pair can have: that of the largest entry in the grid of its controls."""
        return 1 / (1 + max(min(self.n_controls, len(self.genes) - 2), 0)) ** 2

    def matched(self, parts: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Return the controls of a gene, or of a complex by the mean over its `parts`, none of them `excluded`."""
        k = min(self.n_controls + len(excluded), len(self.genes))
        moments = np.maximum(self._moments[parts].mean(axis=0), 1e-9)  # zero for a gene without counts
        _, nearest = self._tree.query(np.log(moments), k=k)
        genes = self.genes[np.atleast_1d(nearest)]
        return genes[~np.isin(genes, excluded)][: self.n_controls]


def control_pools(
    mean: np.ndarray, deviation: np.ndarray, n_controls: int, max_controls: int, seed: int
) -> list[ControlPool]:
    """Return pools for `n_controls` and then twice the number each time, at most `max_controls`; none for 0.

    More controls than the first are not matched less closely: at most one of `POOL_FACTOR` genes is a control.
    """
    if not n_controls:
        return []
    last = min(max_controls, int((deviation > 0).sum()) // POOL_FACTOR)
    numbers = [n_controls]
    while numbers[-1] < last:
        numbers.append(min(2 * numbers[-1], last))
    return [ControlPool(mean, deviation, number, seed) for number in numbers]


class ControlComparison(NamedTuple):
    """A pair among its controls; NaN if it has no effect or no controls.

    Percentile of the size of its effect, empirical p-value and rank of its interaction residual (1 is the largest), and
    number of controls of each gene.
    """

    percentile: float
    p: float
    rank: float
    n_controls: float


def compare_with_controls(effects: np.ndarray) -> ControlComparison:
    """Compare the pair in the corner of a grid of standardised effects, (1 + sources, 1 + targets), with its controls.

    Row 0 is the source and the other rows are its controls; column 0 is the target and the other columns are its
    controls; NaN entries are ignored. The percentile is that of the size of the pair's effect within row 0 and column
    0. The p-value is the rank of the size of its interaction residual over the whole grid, so neither a source that
    affects everything nor a target that is affected by everything is enough for a small one. All entries are treated
    in the same way, so every rank is equally likely for a random pair.
    """
    if not np.isfinite(effects[0, 0]) or effects.size == 1:
        return ControlComparison(np.nan, np.nan, np.nan, np.nan)
    own = np.concatenate([effects[0, 1:], effects[1:, 0]])
    percentile = 100 * np.mean(np.abs(own) < abs(effects[0, 0]))
    finite = np.isfinite(effects)
    sizes = _interaction_sizes(effects, finite)
    rank = int(np.count_nonzero(sizes[finite] >= sizes[0, 0]))
    return ControlComparison(percentile, rank / int(finite.sum()), rank, min(effects.shape) - 1)


def _interaction_sizes(effects: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Return the squared residuals after removing row and column means, with rows and columns of the same spread.

    An entry is left out of the spreads that it is divided by. Otherwise a strong pair would raise the spread of its own
    row and column, and the stronger it is the smaller its residual would be.
    """
    filled = np.where(finite, effects, 0)
    n_by_row, n_by_column = finite.sum(axis=1, keepdims=True), finite.sum(axis=0)
    row = filled.sum(axis=1, keepdims=True) / np.maximum(n_by_row, 1)
    column = filled.sum(axis=0) / np.maximum(n_by_column, 1)
    square = np.where(finite, filled - row - column + filled.sum() / finite.sum(), 0) ** 2
    others_in_row = (square.sum(axis=1, keepdims=True) - square) / np.maximum(n_by_row - 1, 1)
    others_in_column = (square.sum(axis=0) - square) / np.maximum(n_by_column - 1, 1)
    spread = others_in_row * others_in_column
    return np.divide(square, spread, out=np.zeros_like(square), where=spread > 0)
