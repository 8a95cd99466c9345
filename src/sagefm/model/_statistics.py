"""Statistics of many genes or pairs at once, where some values may be NaN."""

import numpy as np
from scipy.special import betainc
from scipy.stats import false_discovery_control, norm


def q_values(p: np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg q-values; NaN stays NaN and does not count as a test."""
    q = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    q[tested] = false_discovery_control(np.asarray(p)[tested])
    return q


def fisher_average(r: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average correlations over `n` entries each, both (sections, genes), over sections by Fisher's z.

    Sections have weight n - 3. Returns the averaged r and its two-sided p-value, (genes,).
    """
    weights = np.where(np.isnan(r), 0, np.maximum(n - 3, 0))
    total = weights.sum(axis=0)
    z = np.arctanh(np.nan_to_num(r).clip(-1 + 1e-9, 1 - 1e-9))
    mean = np.where(total > 0, (weights * z).sum(axis=0) / np.maximum(total, 1), np.nan)
    return np.tanh(mean), 2 * norm.sf(np.abs(mean) * np.sqrt(total))


def pearson_p(r: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of a correlation over `n` independent entries, by Student's t distribution."""
    return betainc(np.maximum(n - 2, 1e-3) / 2, 0.5, 1 - r**2)


def combined_p(r: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Combine the p-values of correlations over `n` independent entries each, both (sections, genes), over sections.

    By the weighted z-method of Stouffer and Lipták, with the square root of n as the weight. Returns (genes,).
    """
    z = np.sign(r) * norm.isf(pearson_p(r, n) / 2).clip(max=38)
    weights = np.where(np.isnan(r), 0, np.sqrt(n))
    total = np.sqrt((weights**2).sum(axis=0))
    return np.where(
        total > 0, 2 * norm.sf(np.abs((weights * np.nan_to_num(z)).sum(axis=0)) / np.maximum(total, 1e-12)), np.nan
    )
