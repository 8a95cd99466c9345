"""Principal components of standardised expression, as it is or averaged over the neighbourhood; genes stay sparse."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils.sparsefuncs import mean_variance_axis

from sagefm._errors import MissingKeyError
from sagefm.data import log_scaled, looks_like_counts, read_rows

_SCALE_FLOOR = 0.4  # added to standard deviations of genes in quadrature, as in the model


class StandardizedExpression(NamedTuple):
    """Genes over their deviation within sections, (spots, genes), sparse, and what centres them.

    `offsets`, (sections, genes), is to be subtracted; `section`, (spots,), has the row of every spot.
    """

    scaled: sp.csr_matrix
    offsets: np.ndarray
    section: np.ndarray


def expression_of(adata: AnnData, layer: str | None) -> sp.csr_matrix | None:
    """Return X or a layer, (spots, genes); None if there is no X, or it has one gene or only zeros."""
    if layer is not None and layer not in adata.layers:
        raise MissingKeyError(f"layer={layer!r} is not in layers; found {sorted(adata.layers)}.")
    stored = adata.X if layer is None else adata.layers[layer]
    if stored is None or adata.n_vars < 2:
        return None
    expression = read_rows(stored, slice(None))
    if n_wrong := int((~np.isfinite(expression.data)).sum()):
        where = "X" if layer is None else f"layers[{layer!r}]"
        raise ValueError(f"{where} has {n_wrong} values that are NaN or infinite. Fill them in, or pass another layer.")
    return expression if expression.count_nonzero() else None


def expression_axes(
    expression: StandardizedExpression, mean: sp.csr_matrix | None, n_axes: int, seed: int
) -> np.ndarray:
    """Return the leading components of expression, averaged by `mean` if it is given, (spots, axes).

    Genes are neither averaged nor centred, but the products that the decomposition needs are.
    """
    scaled, offsets, section = expression
    members = sp.csr_matrix((np.ones(len(section), np.float32), (section, np.arange(len(section)))))

    def project(genes: np.ndarray) -> np.ndarray:
        spots = scaled @ genes
        spots = (spots if mean is None else mean @ spots) - (offsets @ genes)[section]
        return spots - spots.mean(axis=0)

    def project_back(spots: np.ndarray) -> np.ndarray:
        spots = spots - spots.mean(axis=0)
        return scaled.T @ (spots if mean is None else mean.T @ spots) - offsets.T @ (members @ spots)

    operator = LinearOperator(
        scaled.shape, matvec=project, rmatvec=project_back, matmat=project, rmatmat=project_back, dtype=np.float32
    )
    start = np.random.default_rng(seed).normal(size=min(scaled.shape)).astype(np.float32)
    left, deviation, _ = svds(operator, k=max(1, min(n_axes, min(scaled.shape) - 1)), v0=start)
    return (left * deviation)[:, ::-1].astype(np.float64)


def standardized(expression: sp.csr_matrix, sections: np.ndarray) -> StandardizedExpression:
    """Standardise genes within sections.

    Raw counts are normalised by library size and logged; anything else is taken as it is.
    """
    names, section = np.unique(sections, return_inverse=True)
    n_sections = len(names)
    are_counts = looks_like_counts(expression) and expression.data.min(initial=0) >= 0
    logged = _logged(expression, section, n_sections) if are_counts else expression.copy()
    scale, offsets = np.empty((2, n_sections, expression.shape[1]))
    for number in range(n_sections):
        gene_mean, variance = mean_variance_axis(logged[section == number], axis=0)
        scale[number] = np.sqrt(variance + _SCALE_FLOOR**2)
        offsets[number] = gene_mean / scale[number]
    logged.data /= scale[np.repeat(section, np.diff(logged.indptr)), logged.indices].astype(np.float32)
    return StandardizedExpression(logged, offsets.astype(np.float32), section)


def _logged(counts: sp.csr_matrix, section: np.ndarray, n_sections: int) -> sp.csr_matrix:
    """Return logged counts, with library sizes scaled to the median of the section."""
    size = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factor = np.ones(len(size))
    for number in range(n_sections):
        positive = (section == number) & (size > 0)
        factor[positive] = np.median(size[positive]) / size[positive] if positive.any() else 1
    return log_scaled(counts, factor)
