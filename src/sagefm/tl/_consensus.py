"""Consensus of many clusterings of one tissue, and how far they agree."""

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

N_CLUSTERINGS = 24
SUBSAMPLE = 0.8
_MAX_SUBSAMPLE = 20_000  # spots that one mixture is fitted to; more change nothing and take longer


def clusterings_of(views: list[np.ndarray], n_domains: int, seed: int, n: int = N_CLUSTERINGS) -> np.ndarray:
    """Return `n` clusterings, (n, spots), each of one view in turn and fitted to a random part of the spots."""
    return np.stack([_clustering(views[draw % len(views)], n_domains, seed, draw) for draw in range(n)])


def _clustering(view: np.ndarray, n_domains: int, seed: int, draw: int) -> np.ndarray:
    n_spots = len(view)
    n_kept = max(n_domains, min(int(SUBSAMPLE * n_spots), _MAX_SUBSAMPLE))
    kept = np.random.default_rng([seed, draw]).choice(n_spots, n_kept, replace=False)
    mixture = GaussianMixture(n_domains, covariance_type="tied", random_state=seed + draw)
    return mixture.fit(view[np.sort(kept)]).predict(view)


def co_membership(clusterings: np.ndarray) -> np.ndarray:
    """Return coordinates in which spots are near that many clusterings put into one cluster, (spots, domains - 1).

    They are the principal components of the indicators of all clusters.
    """
    n_spots, n_domains = clusterings.shape[1], int(clusterings.max()) + 1
    columns = (clusterings + n_domains * np.arange(len(clusterings))[:, None]).T.ravel()
    rows = np.repeat(np.arange(n_spots), len(clusterings))
    indicators = sp.csr_matrix((np.ones(columns.size), (rows, columns)), (n_spots, n_domains * len(clusterings)))
    n_axes = min(max(n_domains - 1, 1), n_spots)
    return PCA(n_axes, svd_solver="covariance_eigh").fit_transform(indicators)


def agreement(labels: np.ndarray, clusterings: np.ndarray) -> float:
    """Return the mean adjusted Rand index between `labels`, (spots,), and clusterings, (clusterings, spots)."""
    return float(np.mean([adjusted_rand_score(labels, clustering) for clustering in clusterings]))
