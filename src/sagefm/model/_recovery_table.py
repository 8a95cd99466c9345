"""Correlation of truth and prediction gene by gene: streaming sums, averages over sections and masks, q-values."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pandas as pd

from sagefm.model._statistics import fisher_average, pearson_p, q_values

TOP = 500  # number of most expressed genes that the totals summarise
_ROUNDING = 1e-12  # a variance below this share of the mean square is float64 rounding error


class Moments:
    """Sums over the masked entries of each gene, from which correlations follow without storing the entries.

    Parameters
    ----------
    expression
        Measured expression of each gene summed over all spots, masked or not, (genes,).
    n_spots
        Number of all spots.
    sums
        (9, genes): n, x, y, z, xx, yy, zz, xy, xz of truth x, prediction y and neighbour mean z. Zero by default.
    """

    def __init__(self, expression: np.ndarray, n_spots: int, sums: np.ndarray | None = None) -> None:
        self.expression, self.n_spots = expression, n_spots
        self.sums = np.zeros((9, len(expression))) if sums is None else sums

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.expression + other.expression, self.n_spots + other.n_spots, self.sums + other.sums)

    def add(self, mask: np.ndarray, truth: np.ndarray, predicted: np.ndarray, neighbors: np.ndarray) -> None:
        """Add the entries of some spots that are in `mask`; all arrays are (spots, genes)."""
        x, y, z = (np.where(mask, values, np.float64(0)) for values in (truth, predicted, neighbors))
        sums = [values.sum(axis=0) for values in (mask, x, y, z)]
        products = [np.einsum("sg,sg->g", *pair) for pair in ((x, x), (y, y), (z, z), (x, y), (x, z))]
        self.sums += np.stack([*sums, *products])

    @property
    def n(self) -> np.ndarray:
        """Number of masked entries of each gene, (genes,)."""
        return self.sums[0]

    def correlations(self) -> np.ndarray:
        """Return the correlation of the truth with the prediction and with the neighbour mean, (2, genes)."""
        n, x, y, z, xx, yy, zz, xy, xz = self.sums
        return np.stack([_correlation(n, x, xx, y, yy, xy), _correlation(n, x, xx, z, zz, xz)])


def _correlation(n, x, xx, y, yy, xy) -> np.ndarray:
    """Return Pearson's r: NaN where the truth x does not vary, 0 where only the prediction y does not."""
    n = np.maximum(n, 1)
    truth_variance, variance, covariance = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
    flat_truth, flat = truth_variance <= _ROUNDING * xx / n, variance <= _ROUNDING * yy / n
    spread = np.sqrt(np.where(flat_truth | flat, 1, truth_variance * variance))
    return np.where(flat_truth, np.nan, np.where(flat, 0, (covariance / spread).clip(-1, 1)))


def recovery_table(by_mask: Sequence[Sequence[Moments]], genes: pd.Index) -> pd.DataFrame:
    """Combine the moments of all sections, for each mask, into the table of :meth:`SAGEFM.get_masked_recovery`.

    Correlations are computed for each mask and then averaged. The entries of different masks are not pooled: a
    prediction that is informed by the mean of the unmasked entries is too low where the masked ones are high, so
    pooling would underestimate the correlation.
    """
    r, p, r_neighbors = _averaged([moments for sections in by_mask for moments in sections])
    all_sections = [reduce(Moments.__add__, sections) for sections in by_mask]
    r_pooled, _, _ = _averaged(all_sections)
    pooled = reduce(Moments.__add__, all_sections)
    columns = {
        "r": r,
        "r_neighbors": r_neighbors,
        "r_pooled": r_pooled,
        "p": p,
        "q": q_values(p),
        "p_pooled": pearson_p(r_pooled, pooled.n),
        "n": pooled.n.astype(int),
        "mean_expression": pooled.expression / pooled.n_spots,
    }
    table = pd.DataFrame(columns, index=genes)
    table.attrs.update(_totals(table))
    return table


def _averaged(parts: Sequence[Moments]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return averages over `parts`, each (genes,): the prediction's r and its p-value, and the neighbour mean's r."""
    n = np.stack([part.n for part in parts])
    within, within_neighbors = np.stack([part.correlations() for part in parts], axis=1)
    return *fisher_average(within, n), fisher_average(within_neighbors, n)[0]


def _totals(table: pd.DataFrame) -> dict[str, float]:
    tested = table[table["r"].notna()]
    top = tested.nlargest(TOP, "mean_expression")
    recovered = (tested["q"] < 0.05) & (tested["r"] > 0)
    return {
        "n_genes": len(tested),
        "share_p05": float((tested["p_pooled"] < 0.05).mean()),
        "share_q05": float(recovered.mean()),
        "median_r": float(tested["r"].median()),
        "median_r_neighbors": float(tested["r_neighbors"].median()),
        f"top{TOP}_r": float(top["r"].mean()),
        f"top{TOP}_r_neighbors": float(top["r_neighbors"].mean()),
        f"top{TOP}_share_q05": float(recovered[top.index].mean()),
    }
