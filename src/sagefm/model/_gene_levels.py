"""Levels of genes in one section: measured, or for genes that its panel lacks, estimated from the genes that it has.

How a gene's share of all counts differs between a section and the training data depends on the tissue and on the assay,
and it does so in the same way for genes that vary together. For the genes that the section measures, the log ratio of
the two shares is regressed on what the model knows of a gene: its level and spread in the training data, and the
direction of its weights in the decoder, which is similar for genes of the same cell types and programmes. The same
holds for the mean and the spread on the log scale. The ridge penalty is chosen by leave-one-out cross-validation over
genes; where nothing can be learnt, what remains is a common shift.
"""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from sagefm.data import CHUNK, Normalization, Spots, chunks

_PENALTIES = np.logspace(0, 4, 9)
_LEAST_MEAN, _LEAST_SHARE = 1e-3, 1e-9  # keep logarithms of levels finite
_LEAST_GENES = 10  # to estimate other genes from
_PRIOR_COUNTS = 5.0  # a gene with this many counts weighs half as much as one with many


class GeneLevels(NamedTuple):
    """Mean and scale of genes on the log scale, and share of all counts, each float32 (genes,)."""

    mean: np.ndarray
    scale: np.ndarray
    share: np.ndarray

    def apply(self, patterns: np.ndarray) -> np.ndarray:
        """Return `patterns`, standardised predictions, (spots, genes), on the log scale at these means and scales."""
        values = np.maximum((patterns - patterns.mean(axis=0)) * self.scale + self.mean, 0)
        return scaled_to_total(values, self.mean * len(values))

    def replaced(self, genes: np.ndarray, other: "GeneLevels") -> "GeneLevels":
        """Return levels that are those of `other` for `genes`, boolean (genes,)."""
        return GeneLevels(*(np.where(genes, theirs, own) for own, theirs in zip(self, other, strict=True)))


def scaled_to_total(values: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return `values`, (spots, genes), with each gene scaled so that it adds up to its `total`, (genes,)."""
    found = values.sum(axis=0, dtype=np.float64)
    return values * np.divide(total, found, out=np.ones_like(found), where=found > 0).astype(values.dtype)


def measured_levels(counts: np.ndarray, factor: np.ndarray, size: np.ndarray, floor: float) -> GeneLevels:
    """Return the levels of genes from their `counts`, (spots, genes).

    `factor` scales counts before the logarithm and `size` is the library size, each (spots, 1); `floor` is added to
    standard deviations in quadrature.
    """
    logged = np.log1p(counts * factor)
    mean, deviation = (moment(axis=0, dtype=np.float64) for moment in (logged.mean, logged.std))
    share = counts.sum(axis=0, dtype=np.float64) / size.sum(dtype=np.float64)
    return _levels(mean, np.hypot(deviation, floor), share)


def estimated_levels(spots: Spots, rows: np.ndarray, genes: np.ndarray, decoder: np.ndarray) -> GeneLevels:
    """Return the levels of `genes`, by position, in the section of spots `rows`, from its unmasked genes.

    With too few of those, they are the levels in the training data. `decoder` are the decoder's weights, (genes of the
    model, latent).
    """
    known, total = np.flatnonzero(~spots.masked), _totals(spots, rows)
    training, features = np.stack(_training_levels(spots.normalization)), _features(spots.normalization, decoder)
    if len(known) < _LEAST_GENES:
        return _levels(*training[:, genes])
    change = np.log(np.stack(_section_levels(spots, rows, total)) / training)[:, known]
    weight = total[known] / (total[known] + _PRIOR_COUNTS) + 1e-3
    ridge = RidgeCV(_PENALTIES, alpha_per_target=True).fit(features[known], change.T, sample_weight=weight)
    return _levels(*(training[:, genes] * np.exp(ridge.predict(features[genes]).T)))


def _section_levels(spots: Spots, rows: np.ndarray, total: np.ndarray) -> GeneLevels:
    """Return the levels of all genes in the section of spots `rows`, where they have `total` counts; none is zero."""
    normalization, known = spots.normalization, ~spots.masked
    mean, deviation = spots.gene_moments(rows)
    all_counts = max(total[known].sum(), 1) / normalization.profile.cpu().numpy()[known].sum()
    return _levels(mean + _LEAST_MEAN, np.hypot(deviation, normalization.scale_floor), (total + 0.5) / all_counts)


def _training_levels(normalization: Normalization) -> GeneLevels:
    """Return the levels of all genes of the model in the training data; none is zero."""
    mean, deviation = normalization.gene_mean.cpu().numpy(), normalization.gene_scale.cpu().numpy()
    share = np.maximum(normalization.profile.cpu().numpy(), _LEAST_SHARE)
    return _levels(mean + _LEAST_MEAN, np.hypot(deviation, normalization.scale_floor), share)


def _features(normalization: Normalization, decoder: np.ndarray) -> np.ndarray:
    """Return what the model knows of each gene, standardised, (genes, features)."""
    mean, scale, share = _training_levels(normalization)
    direction = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    features = np.column_stack([mean, np.log(mean), scale, np.log(share), np.log(share) ** 2, direction])
    return StandardScaler().fit_transform(features.astype(np.float64))


def _totals(spots: Spots, rows: np.ndarray) -> np.ndarray:
    """Return the counts of every gene over `rows`, (genes,)."""
    return np.sum([spots.counts(piece).sum(axis=0, dtype=np.float64) for piece in chunks(rows, CHUNK)], axis=0).ravel()


def _levels(*values: np.ndarray) -> GeneLevels:
    return GeneLevels(*(np.asarray(value, dtype=np.float32) for value in values))
