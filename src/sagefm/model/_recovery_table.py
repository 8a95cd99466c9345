"""Correlation of truth and prediction gene by gene: streaming sums, averages over sections and masks, q-values."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd

from sagefm.model._statistics import combined_p, fisher_average, pearson_p, q_values

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


class SectionScores(NamedTuple):
    """Scores of one section.

    Moments of each mask; the effective number of scored entries, for all masks together, (genes,); and the noise
    ceiling, (genes,).
    """

    moments: list[Moments]
    n_effective: np.ndarray
    r_max: np.ndarray


def recovery_table(sections: Sequence[SectionScores], genes: pd.Index) -> pd.DataFrame:
    """Combine the scores of all sections into the table of :meth:`SAGEFM.get_masked_recovery`.

    Correlations are computed for each mask and then averaged. The entries of different masks are not pooled: a
    prediction that is informed by the mean of the unmasked entries is too low where the masked ones are high, so
    pooling would underestimate the correlation.
    """
    r, r_neighbors = _averaged([moments for section in sections for moments in section.moments])
    by_mask = [reduce(Moments.__add__, moments) for moments in zip(*(s.moments for s in sections), strict=True)]
    pooled, (r_pooled, _) = reduce(Moments.__add__, by_mask), _averaged(by_mask)
    n_effective = np.stack([section.n_effective for section in sections])
    p = combined_p(np.stack([_averaged(section.moments)[0] for section in sections]), n_effective)
    ceilings, n = (np.stack(x) for x in zip(*((s.r_max, sum(m.n for m in s.moments)) for s in sections), strict=True))
    columns = {
        "r": r,
        "r_neighbors": r_neighbors,
        "r_max": fisher_average(ceilings, n)[0],
        "r_pooled": r_pooled,
        "p": p,
        "q": q_values(p),
        "p_naive": pearson_p(r_pooled, pooled.n),
        "n": pooled.n.astype(int),
        "n_effective": np.nansum(n_effective, axis=0),
        "mean_expression": pooled.expression / pooled.n_spots,
    }
    table = pd.DataFrame(columns, index=genes)
    table.attrs.update(recovery_totals(table))
    return table


def _averaged(parts: Sequence[Moments]) -> np.ndarray:
    """Return averages over `parts` of the prediction's r and of the neighbour mean's r, (2, genes)."""
    n, r = np.stack([part.n for part in parts]), np.stack([part.correlations() for part in parts], axis=1)
    return np.stack([fisher_average(within, n)[0] for within in r])


def recovery_totals(table: pd.DataFrame) -> dict[str, float]:
    """Return the totals of a recovery table, or of some of its genes."""
    tested = table[table["r"].notna()]
    top = tested.nlargest(TOP, "mean_expression")
    recovered = (tested["q"] < 0.05) & (tested["r"] > 0)
    r, r_max = top["r"].mean(), top["r_max"].mean()
    totals = {
        "share_p05_naive": (tested["p_naive"] < 0.05).mean(),
        "share_q05": recovered.mean(),
        "median_r": tested["r"].median(),
        "median_r_neighbors": tested["r_neighbors"].median(),
        f"top{TOP}_r": r,
        f"top{TOP}_r_neighbors": top["r_neighbors"].mean(),
        f"top{TOP}_r_max": r_max,
        f"top{TOP}_share_of_ceiling": r / r_max,
        f"top{TOP}_share_q05": recovered[top.index].mean(),
    }
    return {"n_genes": len(tested), **{name: float(value) for name, value in totals.items()}}
