"""Spatial domains: clusters of spots by any representation, smoothed over the neighbour graph."""

import warnings
from collections.abc import Iterable
from itertools import combinations
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy.signal import argrelmax
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from sagefm._errors import refuse_unknown
from sagefm.data import refuse_unwritable_key
from sagefm.tl._inputs import groups, neighborhood_means, representation, scaled_within

Method = Literal["gmm", "leiden"]
N_COMPONENTS = 20  # principal components to which a wider representation is reduced
N_STARTS = 5  # starts of the Gaussian mixture, of which the one with the highest likelihood is kept
CANDIDATES = range(2, 13)  # numbers of domains tried by default
N_SUBSAMPLES, SUBSAMPLE = 6, 0.8
MAX_RESOLUTION, N_BISECTIONS = 16.0, 30


def domains(
    adata: AnnData,
    n_domains: int | Iterable[int] | None = None,
    *,
    use_rep: str = "X_sagefm",
    method: Method = "gmm",
    smooth: int = 1,
    sample_key: str | None = None,
    scale_by: str | None = None,
    neighbors_key: str = "spatial",
    seed: int = 0,
    key_added: str = "domain",
) -> None:
    """Cluster spots into spatial domains.

    The representation is averaged over each spot and its neighbours, `smooth` times, reduced to 20 principal
    components if it is wider, and clustered. All sections of `adata` are clustered together, so a domain has the
    same name in each of them; the neighbour graph joins spots of the same section only, so smoothing stays within it.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp` unless `smooth` is 0.
    n_domains
        Number of domains; or several numbers, of which the most stable is chosen; None is 2 to 12. To measure
        stability, six random subsamples of 80 % of the spots are clustered, and each pair is compared on the spots they
        share by the adjusted Rand index. Few domains are more stable than many in any tissue. The chosen number is
        therefore the most stable of those that are more stable than the next lower and the next higher one; look at
        the table `stability` before you rely on it. It is an estimate, and tends to be too low if small domains are
        rare.
    use_rep
        Key in `obsm` of the representation, one row per spot. Spots with NaN in their row get no domain.
    method
        `"gmm"`: a Gaussian mixture whose components share one covariance, the one with the highest likelihood of five
        starts. `"leiden"`: Leiden on the graph of the 15 nearest neighbours in the representation, at the resolution
        that gives `n_domains`.
    smooth
        How many times each spot's representation is replaced by the mean over the spot and its neighbours. Use 1 for
        domains many spots wide, as in cortex and heart, and 0 for domains about as narrow as the neighbourhood, as in
        patchy tumours and thin layers on coarse arrays.
    sample_key
        Column of `obs` with the section of each spot. It is only checked: an edge between sections is an error.
    scale_by
        Column of `obs` within whose groups the representation is standardised before anything else, for sections that
        differ more from one another than domains do; None leaves it as it is.
    neighbors_key
        Prefix of the neighbour graph's key in `obsp`.
    seed
        Seed of starts and subsamples.
    key_added
        Where results are stored: the domains in the categorical `obs[key_added]`, named `"1"`, `"2"` and so on from the
        largest to the smallest; the arguments in `uns[key_added]`, with `stability`, a table with the columns
        `n_domains` and `ari`, if several numbers were tried.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If an argument is out of range, or the graph joins two sections.

    Warns
    -----
    UserWarning
        If no resolution gives exactly `n_domains`; the nearest number is used.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> sagefm.tl.domains(adata, 5, use_rep="X_pca")
    >>> adata.obs["domain"].cat.categories.tolist()
    ['1', '2', '3', '4', '5']
    """
    refuse_unwritable_key(key_added, "key_added")
    refuse_unknown("method", method, get_args(Method))
    values, embedded = representation(adata, use_rep)
    if scale_by is not None:
        values = scaled_within(values, groups(adata, scale_by, "scale_by"))
    if smooth < 0:
        raise ValueError(f"smooth={smooth} must be a number of rounds, 0 or more.")
    if smooth > 0:
        # Only the means are clustered: with the spot's own values next to them, rare spots become their own domains.
        values = neighborhood_means(adata, values, embedded, neighbors_key, sample_key, smooth)
    values = values[embedded]
    if values.shape[1] > (n_components := min(N_COMPONENTS, len(values))):
        values = PCA(n_components, random_state=seed).fit_transform(values)
    candidates = _candidates(n_domains, len(values))
    stability = _stability(values, candidates, method, seed) if len(candidates) > 1 else None
    n_domains = candidates[0] if stability is None else _most_stable_peak(stability)
    adata.obs[key_added] = _named(_cluster(values, n_domains, method, seed), embedded)
    params = {"n_domains": n_domains, "use_rep": use_rep, "method": method, "smooth": smooth, "seed": seed}
    keys = {"sample_key": sample_key, "scale_by": scale_by, "neighbors_key": neighbors_key}
    adata.uns[key_added] = {"params": params | {name: key for name, key in keys.items() if key is not None}}
    if stability is not None:
        adata.uns[key_added]["stability"] = stability


def _candidates(n_domains: int | Iterable[int] | None, n_spots: int) -> list[int]:
    """Return the numbers of domains to try, in ascending order."""
    most = int(SUBSAMPLE * n_spots)
    if n_domains is None:
        return [number for number in CANDIDATES if number <= max(most, 2)]
    numbers: set[Any] = set(n_domains) if isinstance(n_domains, Iterable) else {n_domains}
    if any(not isinstance(number, Real) or number % 1 != 0 for number in numbers):
        raise ValueError(f"n_domains={n_domains!r} must be a whole number, or several.")
    candidates = sorted(numbers)
    most = n_spots if len(candidates) == 1 else most
    if not candidates or not 1 <= candidates[0] <= candidates[-1] <= most:
        raise ValueError(f"n_domains={n_domains!r} must lie between 1 and {most}; there are {n_spots} embedded spots.")
    return [int(number) for number in candidates]


def _cluster(values: np.ndarray, n_domains: int, method: Method, seed: int, n_starts: int = N_STARTS) -> np.ndarray:
    """Return the cluster of every row."""
    if method == "leiden":
        return _leiden(values, n_domains, seed)
    mixture = GaussianMixture(n_domains, covariance_type="tied", n_init=n_starts, random_state=seed)
    return mixture.fit_predict(values)


def _leiden(values: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    """Find the resolution that gives `n_domains` by bisection; if none does, return the nearest number."""
    light = AnnData(obsm={"values": values}, obs=pd.DataFrame(index=np.arange(len(values)).astype(str)))
    sc.pp.neighbors(light, use_rep="values", random_state=seed)
    low, high = 0.0, MAX_RESOLUTION
    tried = []
    for _ in range(N_BISECTIONS):
        resolution = (low + high) / 2
        sc.tl.leiden(light, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=-1, directed=False)
        tried.append(light.obs["leiden"].cat.codes.to_numpy())
        n_found = tried[-1].max() + 1
        if n_found == n_domains:
            return tried[-1]
        low, high = (resolution, high) if n_found < n_domains else (low, resolution)
    nearest = min(tried, key=lambda found: abs(found.max() + 1 - n_domains))
    warnings.warn(f"No Leiden resolution gives {n_domains} domains; using {nearest.max() + 1}.", stacklevel=4)
    return nearest


def _stability(values: np.ndarray, candidates: list[int], method: Method, seed: int) -> pd.DataFrame:
    """Compare clusterings of subsamples with one another, for every number of domains."""
    rng, n_kept = np.random.default_rng(seed), int(SUBSAMPLE * len(values))
    subsamples = [np.sort(rng.choice(len(values), n_kept, replace=False)) for _ in range(N_SUBSAMPLES)]
    table = []
    for n_domains in candidates:
        labels = [
            pd.Series(_cluster(values[kept], n_domains, method, seed + number, n_starts=1), index=kept, name=number)
            for number, kept in enumerate(subsamples)
        ]
        shared = (pd.concat(pair, axis=1, join="inner") for pair in combinations(labels, 2))
        table.append((n_domains, float(np.mean([adjusted_rand_score(*pair.to_numpy().T) for pair in shared]))))
    return pd.DataFrame(table, columns=["n_domains", "ari"])


def _most_stable_peak(stability: pd.DataFrame) -> int:
    """Return the most stable number among those more stable than both adjacent numbers; the best if there is none."""
    peaks = stability.iloc[argrelmax(stability["ari"].to_numpy())[0]]
    candidates = peaks if len(peaks) else stability
    return int(candidates["n_domains"].iloc[candidates["ari"].argmax()])


def _named(labels: np.ndarray, embedded: np.ndarray) -> pd.Categorical:
    """Name the clusters by number from the largest to the smallest; spots that are not `embedded` are missing."""
    found, sizes = np.unique(labels, return_counts=True)
    by_size = pd.Index(found[np.argsort(-sizes, kind="stable")])
    codes = np.full(len(embedded), -1)
    codes[embedded] = by_size.get_indexer(labels)
    return pd.Categorical.from_codes(codes, pd.Index([str(number + 1) for number in range(len(found))], dtype=object))
