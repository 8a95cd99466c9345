r"""Effective number of spots: how many independent spots the correlation of two spatial maps is worth.

Neighbouring spots are alike, so :math:`n` spots carry less evidence than :math:`n` independent ones. If two maps are
unrelated, their correlation has the variance

.. math:: \sigma^2 = \frac{1}{n} \Big(1 + \sum_k m_k\, \rho_x(k)\, \rho_y(k)\Big),

where :math:`\rho_x(k)` and :math:`\rho_y(k)` are their autocorrelations at distance :math:`k`, and :math:`m_k` is the
mean number of spots at that distance from a spot. The effective number is :math:`1 + 1 / \sigma^2` [1]_, [2]_.
Distances are counted in steps of the neighbour graph.

References
----------
.. [1] Clifford, Richardson and Hemon (1989), Assessing the significance of the correlation between two spatial
   processes, Biometrics 45.
.. [2] Dutilleul (1993), Modifying the t test for assessing the correlation between two spatial processes,
   Biometrics 49.
"""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from sagefm.data import compact_blocks

# Distances, in steps of the graph, are grouped in classes that begin at these numbers; beyond the last number maps are
# taken to be uncorrelated.
_CLASSES = np.array([1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 31])
_N_CENTERS, _N_PARTNERS = 512, 4  # random spots, and random partners of each in every class of distances
_PAIRS_AT_ONCE = 256  # pairs whose values are copied at one time
_MIN_Z = 2  # standard errors; smaller autocorrelations count as zero, else the noise of far classes would add up
_MAX_SPOTS, _N_BLOCKS = 3000, 4  # of a larger section, autocorrelations are estimated in some compact blocks


class LagPairs:
    """Random pairs of spots of one section, by their distance.

    Parameters
    ----------
    graph
        Neighbour graph of the section, (spots, spots).
    members
        Positions of the spots that take part, ascending.

    Attributes
    ----------
    spots
        The members between which pairs are drawn, by number.
    pairs
        For each class of distances, numbers of `spots`, (2, pairs).
    n_partners
        Mean number of members in each class of distances from a member, (classes, 1).
    """

    def __init__(self, graph: sp.csr_matrix, members: np.ndarray) -> None:
        rng, self.spots = np.random.default_rng(0), np.arange(len(members))
        if len(members) > _MAX_SPOTS:
            inside = graph[members][:, members]
            self.spots = compact_blocks(inside, _MAX_SPOTS, n_blocks=_N_BLOCKS, rng=rng)
        centers = rng.permutation(len(self.spots))[:_N_CENTERS]
        sources = members[self.spots[centers]]
        steps = dijkstra(graph + graph.T, unweighted=True, indices=sources, limit=_CLASSES[-1])[:, members]
        class_of = np.digitize(steps, _CLASSES) - 1
        classes = range(len(_CLASSES) - 1)
        self.n_partners = np.array([[(class_of == number).sum() / max(len(centers), 1)] for number in classes])
        self.pairs = [_drawn(centers, class_of[:, self.spots] == number, rng) for number in classes]


def _drawn(centers: np.ndarray, is_partner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return pairs of each centre with at most a few random partners, (2, pairs)."""
    order = np.where(is_partner, rng.random(is_partner.shape, dtype=np.float32), 2)
    n = min(_N_PARTNERS, order.shape[1])
    partners = np.argpartition(order, n - 1, axis=1)[:, :n]
    drawn = np.take_along_axis(is_partner, partners, axis=1)
    return np.stack([np.repeat(centers, drawn.sum(axis=1)), partners[drawn]])


class Autocorrelation:
    """Autocorrelation of maps over the spots of one section.

    Parameters
    ----------
    lags
        Pairs of spots.
    n_genes
        Number of maps.
    """

    def __init__(self, lags: LagPairs, n_genes: int) -> None:
        self._lags = lags
        self._values = np.zeros((len(lags.spots), n_genes), dtype=np.float32)
        self._n = np.zeros(n_genes)

    def add(self, members: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add the values of some members, by number, (members, genes); only those in `mask`, if given."""
        mask = np.ones(values.shape, dtype=bool) if mask is None else mask
        place = np.searchsorted(self._lags.spots, members).clip(max=len(self._lags.spots) - 1)
        kept = self._lags.spots[place] == members
        self._values[place[kept]] += np.where(mask, values, 0)[kept]
        self._n += mask[kept].sum(axis=0)

    def by_distance(self) -> np.ndarray:
        """Return the autocorrelation at each distance, (classes, genes)."""
        n = np.maximum(self._n, 1)
        offset = (self._values.sum(axis=0, dtype=float) / n) ** 2
        variance = np.einsum("sg,sg->g", self._values, self._values, dtype=float) / n - offset
        products = [self._sum_of_products(pairs) for pairs in self._lags.pairs]
        n_pairs = np.array([[pairs.shape[1]] for pairs in self._lags.pairs]) * self._share**2
        covariance = np.where(n_pairs > 0, products / n_pairs.clip(1e-9) - offset, 0)
        varies = variance > 1e-12
        rho = np.where(varies, covariance / np.where(varies, variance, 1), 0).clip(-1, 1)
        return np.where(rho**2 * n_pairs > _MIN_Z**2, rho, 0)

    def _sum_of_products(self, pairs: np.ndarray) -> np.ndarray:
        parts = (pairs[:, start : start + _PAIRS_AT_ONCE] for start in range(0, pairs.shape[1], _PAIRS_AT_ONCE))
        return sum((np.einsum("pg,pg->g", *self._values[part]) for part in parts), np.zeros(len(self._n)))

    def n_partners(self) -> np.ndarray:
        """Return the mean number of values at each distance from a value, (classes, genes)."""
        return self._lags.n_partners * self._share

    @property
    def _share(self) -> np.ndarray:
        """Share of the spots that have a value, (genes,); masked entries are taken to be a random part."""
        return self._n / max(len(self._lags.spots), 1)


def effective_size(n: np.ndarray, truth: np.ndarray, prediction: Autocorrelation) -> np.ndarray:
    """Return the effective number of spots of a correlation over `n` spots, (genes,).

    `truth` is the autocorrelation of the truth by distance, (classes, genes).
    """
    inflation = 1 + (prediction.n_partners() * truth * prediction.by_distance()).sum(axis=0)
    return 1 + n / np.maximum(inflation, 1)
