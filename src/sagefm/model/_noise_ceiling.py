r"""Noise ceiling: the highest correlation with measured counts that any prediction can reach.

Counts are noisy measurements of expression. Split at random into two halves (binomial thinning), they give two
measurements of the same spots with independent noise, whose correlation is the reliability of half the counts. By the
Spearman-Brown formula that of all counts is :math:`R = 2 r / (1 + r)`, and a perfect prediction correlates with the
measured values by :math:`\sqrt{R}`.

It is assumed that counts are Poisson, or binomial given their total: other technical noise is not seen, so the true
ceiling may be lower.

References
----------
.. [1] Spearman (1910), Correlation calculated from faulty data, British Journal of Psychology 3.
.. [2] Neufeld et al. (2024), Inference after latent variable estimation for single-cell RNA sequencing data,
   Biostatistics 25 (count splitting).
"""

import numpy as np
import scipy.sparse as sp

from sagefm.data import log_scaled

_N_REPEATS = 3


def noise_ceiling(counts: sp.csr_matrix, depth: float) -> np.ndarray:
    """Return the ceiling of every gene, (genes,), NaN where counts are not whole numbers or a gene does not vary.

    Parameters
    ----------
    counts
        Raw counts of one section, (spots, genes).
    depth
        Library size that spots are scaled to before the logarithm.
    """
    if (counts.data % 1).any():
        return np.full(counts.shape[1], np.nan)
    rng = np.random.default_rng(0)
    r = np.mean([_split_half_correlation(counts, depth, rng) for _ in range(_N_REPEATS)], axis=0)
    return np.sqrt(np.maximum(2 * r / (1 + r), 0))


def _split_half_correlation(counts: sp.csr_matrix, depth: float, rng: np.random.Generator) -> np.ndarray:
    first = sp.csr_matrix(counts, dtype=np.float64, copy=True)
    first.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(np.float64)
    halves = [_logged(half, depth) for half in (first, counts - first)]
    n = max(counts.shape[0], 1)
    means, squares = (np.stack([_total(half.power(power)) / n for half in halves]) for power in (1, 2))
    covariance = _total(halves[0].multiply(halves[1])) / n - means.prod(axis=0)
    variance = (squares - means**2).prod(axis=0)
    return np.divide(covariance, np.sqrt(variance), out=np.full(len(variance), np.nan), where=variance > 1e-12)


def _logged(counts: sp.csr_matrix, depth: float) -> sp.csr_matrix:
    library_size = np.asarray(counts.sum(axis=1)).ravel()
    return log_scaled(counts, depth / np.maximum(library_size, 1)).astype(np.float64)


def _total(values: sp.csr_matrix) -> np.ndarray:
    return np.asarray(values.sum(axis=0)).ravel()
