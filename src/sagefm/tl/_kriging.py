"""Factorial kriging: variograms of the axes of one section, and the part of each axis that neighbours share."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

# Ridge of the normal equations, relative to their mean diagonal: ring means of few spots are nearly collinear.
_RIDGE = 1e-3
# An axis is spatial if neighbours agree more than chance by this many standard errors of Moran's I.
_MIN_Z = 2.0
_RANGES = np.geomspace(0.3, 20, 60)  # of the exponential covariance, in rings


class AxisVariograms(NamedTuple):
    """Variograms of the axes of one section, with what follows from them.

    Attributes
    ----------
    semivariance
        Half the mean squared difference of spots that are 1, 2, ... rings apart, (rings, axes); NaN without pairs.
    n_pairs
        Number of pairs of spots, (rings,).
    variance
        Variance of every axis, (axes,).
    nugget
        Part of the variance that neighbours do not share, (axes,); the whole variance where an axis is not spatial.
    """

    semivariance: np.ndarray
    n_pairs: np.ndarray
    variance: np.ndarray
    nugget: np.ndarray

    @property
    def spatial_share(self) -> np.ndarray:
        """Share of the variance that neighbours share, (axes,)."""
        variance = np.where(self.variance > 0, self.variance, 1)
        return np.where(self.variance > 0, np.clip(1 - self.nugget / variance, 0, 1), 0)

    @property
    def effective_range(self) -> np.ndarray:
        """Three times the range of an exponential covariance, in rings, (axes,); NaN where an axis is not spatial."""
        shown = self.n_pairs > 0
        lags = 1 + np.flatnonzero(shown)
        weight = np.sqrt(self.n_pairs[shown])[:, None]
        covariance = (self.variance - self.semivariance[shown]) * weight
        errors = [_misfit(np.exp(-lags / scale)[:, None] * weight, covariance) for scale in _RANGES]
        ranges = 3 * _RANGES[np.argmin(errors, axis=0)]
        return np.where((self.spatial_share > 0) & shown.any(), ranges, np.nan)


def _misfit(shape: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the squared error of the best non-negative multiple of `shape`, (axes,)."""
    height = np.maximum((shape * covariance).sum(axis=0) / np.maximum((shape**2).sum(), 1e-300), 0)
    return ((covariance - shape * height) ** 2).sum(axis=0)


def filtered_by_section(
    values: np.ndarray, rings: list[sp.csr_matrix], sections: np.ndarray
) -> tuple[np.ndarray, dict[str, AxisVariograms]]:
    """Filter `values`, (spots, axes), in each section; return them with the variograms by name of the section."""
    filtered, found = np.empty_like(values), {}
    names = np.unique(sections)
    for name in names:
        members = np.flatnonzero(sections == name)
        own = rings if len(names) == 1 else [ring[members][:, members] for ring in rings]
        filtered[members], found[str(name)] = factorial_kriging(values[members], own)
    return filtered, found


def factorial_kriging(values: np.ndarray, rings: list[sp.csr_matrix]) -> tuple[np.ndarray, AxisVariograms]:
    """Predict the spatial part of `values`, (spots, axes), of one section; return it with the variograms."""
    mean = values.mean(axis=0)
    centered = values - mean
    sizes = [np.diff(ring.indptr) for ring in rings]
    variograms = _variograms(centered, rings, sizes)
    filtered = centered + _corrections(centered, rings, sizes, variograms.nugget)
    filtered[:, variograms.spatial_share == 0] = 0
    return filtered + mean, variograms


def _variograms(centered: np.ndarray, rings: list[sp.csr_matrix], sizes: list[np.ndarray]) -> AxisVariograms:
    """Estimate the semivariance of every axis by ring, and extrapolate the first two rings to the nugget."""
    squares = centered**2
    n_pairs = np.array([size.sum() for size in sizes])
    semivariance = np.full((len(rings), centered.shape[1]), np.nan)
    for number, (ring, size) in enumerate(zip(rings, sizes, strict=True)):
        if size.any():  # rings are symmetric, so both spots of a pair have the same sum of squares
            product = np.einsum("na,na->a", centered, ring @ centered)
            semivariance[number] = (size @ squares - product) / size.sum()
    variance = squares.mean(axis=0)
    nugget = _nugget(semivariance, variance, n_pairs[0] / 2) if n_pairs[0] else np.zeros_like(variance)
    return AxisVariograms(semivariance, n_pairs // 2, variance, nugget)


def _nugget(semivariance: np.ndarray, variance: np.ndarray, n_pairs: float) -> np.ndarray:
    """Extrapolate the first two rings to distance 0; without agreement of neighbours it is the whole variance."""
    first = semivariance[0]
    second = np.where(np.isnan(semivariance[1]), first, semivariance[1])
    extrapolated = np.minimum(np.clip(first - (second - first), 0, first), variance)
    morans_i = 1 - first / np.where(variance > 0, variance, 1)
    return np.where(morans_i * np.sqrt(n_pairs) < _MIN_Z, variance, extrapolated)


def _corrections(
    centered: np.ndarray, rings: list[sp.csr_matrix], sizes: list[np.ndarray], nugget: np.ndarray
) -> np.ndarray:
    """Return what the filter adds to every spot, (spots, axes)."""
    differences = [
        np.where((size > 0)[:, None], (ring @ centered) / np.maximum(size, 1)[:, None] - centered, 0)
        for ring, size in zip(rings, sizes, strict=True)
    ]
    # Rings are counted in steps, so a spot that has a ring has all rings before it.
    n_rings = np.sum([size > 0 for size in sizes], axis=0)
    corrections = np.zeros_like(centered)
    for number in np.unique(n_rings[n_rings > 0]):
        reach, members = n_rings >= number, n_rings == number
        weights = _weights(_second_moments([difference[reach] for difference in differences[:number]]), nugget)
        for difference, weight in zip(differences[:number], weights, strict=True):
            corrections[members] += difference[members] * weight
    return corrections


def _second_moments(differences: list[np.ndarray]) -> np.ndarray:
    """Return the mean products of `differences`, each (spots, axes), as (axes, rings, rings)."""
    stacked = np.stack(differences)
    return np.einsum("rna,sna->ars", stacked, stacked, optimize=True) / stacked.shape[1]


def _weights(moments: np.ndarray, nugget: np.ndarray) -> np.ndarray:
    """Return the weights of the differences, (rings, axes), scaled to a sum of 1 where they exceed it."""
    n_rings = moments.shape[1]
    diagonal = np.trace(moments, axis1=1, axis2=2) / n_rings
    ridge = np.where(diagonal > 0, _RIDGE * diagonal, 1)[:, None, None] * np.eye(n_rings)
    weights = nugget[:, None] * np.linalg.solve(moments + ridge, np.ones((len(moments), n_rings, 1)))[..., 0]
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)).T
