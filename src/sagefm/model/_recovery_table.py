"""Correlations of truth and prediction gene by gene: sums that need no entry kept, averages over sections, q-values."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pandas as pd

from sagefm.model._statistics import fisher_average, pearson_p, q_values

TOP = 500  # genes, the most expressed
_ROUNDING = 1e-12  # what rounding leaves of the mean square where nothing varies, in float64


class Moments:
    """Sums over the masked entries of each gene, from which correlations follow without keeping the entries.

    Parameters
    ----------
    sums
        (9, genes): n, x, y, z, xx, yy, zz, xy, xz of truth x, prediction y and neighbour mean z.
    expression
        (genes,): truth summed over all spots, masked or not.
    n_spots
        Number of all spots.
    """

    def __init__(self, sums: np.ndarray, expression: np.ndarray, n_spots: int) -> None:
        self.sums, self.expression, self.n_spots = sums, expression, n_spots

    @classmethod
    def start(cls, expression: np.ndarray, n_spots: int) -> Moments:
        """Start with no masked entry."""
        return cls(np.zeros((9, len(expression))), expression, n_spots)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.sums + other.sums, self.expression + other.expression, self.n_spots + other.n_spots)

    def add(self, mask: np.ndarray, truth: np.ndarray, predicted: np.ndarray, neighbors: np.ndarray) -> None:
        """Add spots, each array (spots, genes)."""
        x, y, z = (np.where(mask, values, np.float64(0)) for values in (truth, predicted, neighbors))
        sums = [values.sum(axis=0) for values in (mask, x, y, z)]
        products = [np.einsum("sg,sg->g", *pair) for pair in ((x, x), (y, y), (z, z), (x, y), (x, z))]
        self.sums += np.stack([*sums, *products])

    @property
    def n(self) -> np.ndarray:
        """Number of masked entries of each gene."""
        return self.sums[0]

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the correlation of truth with prediction and with neighbour mean, each (genes,)."""
        n, x, y, z, xx, yy, zz, xy, xz = self.sums
        return _correlation(n, x, xx, y, yy, xy), _correlation(n, x, xx, z, zz, xz)


def _correlation(n, x, xx, y, yy, xy) -> np.ndarray:
    n = np.maximum(n, 1)
    truth_variance, variance, covariance = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
    flat_truth, flat = truth_variance <= _ROUNDING * xx / n, variance <= _ROUNDING * yy / n
    spread = np.sqrt(np.where(flat_truth | flat, 1, truth_variance * variance))
    return np.where(flat_truth, np.nan, np.where(flat, 0, (covariance / spread).clip(-1, 1)))


def recovery_table(by_mask: list[list[Moments]], genes: pd.Index) -> pd.DataFrame:
    """Join the moments of every section, for each mask, to the table of :meth:`RecoveryMixin.get_masked_recovery`.

    Correlations are those with one mask, averaged over masks: a prediction that knows the mean of what is not masked
    is too low where the masked is high, so that masks taken together would count against it.
    """
    parts = [part for sections in by_mask for part in sections]
    n = np.stack([part.n for part in parts])
    within, within_neighbors = (np.stack(r) for r in zip(*(part.correlations() for part in parts), strict=True))
    r, p = fisher_average(within, n)
    all_sections = [reduce(add, sections) for sections in by_mask]
    pooled = reduce(add, all_sections)
    r_pooled, _ = fisher_average(
        *(np.stack(x) for x in zip(*((s.correlations()[0], s.n) for s in all_sections), strict=True))
    )
    table = pd.DataFrame(
        {
            "r": r,
            "r_neighbors": fisher_average(within_neighbors, n)[0],
            "r_pooled": r_pooled,
            "p": p,
            "q": q_values(p),
            "p_pooled": pearson_p(r_pooled, pooled.n),
            "n": pooled.n.astype(int),
            "mean_expression": pooled.expression / pooled.n_spots,
        },
        index=genes,
    )
    table.attrs.update(_totals(table))
    return table


def _totals(table: pd.DataFrame) -> dict[str, float]:
    tested = table[table["r"].notna()]
    top = tested.nlargest(TOP, "mean_expression")
    found = (tested["q"] < 0.05) & (tested["r"] > 0)
    return {
        "n_genes": len(tested),
        "share_p05": float((tested["p_pooled"] < 0.05).mean()),
        "share_q05": float(found.mean()),
        "median_r": float(tested["r"].median()),
        "median_r_neighbors": float(tested["r_neighbors"].median()),
        f"top{TOP}_r": float(top["r"].mean()),
        f"top{TOP}_r_neighbors": float(top["r_neighbors"].mean()),
        f"top{TOP}_share_q05": float(found[top.index].mean()),
    }
