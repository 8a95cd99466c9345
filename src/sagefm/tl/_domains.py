"""Spatial domains: clusters of spots by any representation, smoothed over the neighbour graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from sagefm._errors import refuse_unknown
from sagefm.tl._inputs import embedded, groups, neighborhood_mean_operator, representation, scaled_within

Method = Literal["gmm", "leiden"]
N_COMPONENTS = 20  # a representation that is wider is reduced to so many principal components
N_STARTS = 5  # of the Gaussian mixture; the likeliest is kept
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
    components where it is wider, and clustered. All sections of `adata` are clustered together, so a domain has the
    same name in each of them; the neighbour graph joins spots of one section only, so smoothing stays within it.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp` unless `smooth` is 0.
    n_domains
        Number of domains; or several numbers, of which the most stable is taken; None is 2 to 12. To measure
        stability, six random subsamples of 80 % of the spots are clustered, and each pair is compared on the spots they
        share by the adjusted Rand index. As few domains are more stable than many whatever the tissue, the number taken
        is the best of those that are more stable than the next lower and the next higher one; look at the table
        `stability` before you rely on it. It is an estimate, and rather too low where small domains are rare.
    use_rep
        Key in `obsm` of the representation, one row of numbers a spot. Spots whose row has NaN get no domain.
    method
        `"gmm"`: a Gaussian mixture whose components share one covariance, the likeliest of five starts. `"leiden"`:
        Leiden on the graph of the 15 nearest in the representation, at the resolution that gives `n_domains`.
    smooth
        How many times each spot's representation is replaced by the mean over the spot and its neighbours. 1 suits
        domains many spots wide, as in cortex and heart; 0 those about as narrow as the neighbourhood, as in patchy
        tumours and thin layers on coarse arrays.
    sample_key
        Column of `obs` that tells sections apart. Only checked: an edge between sections is an error.
    scale_by
        Column of `obs` within whose groups the representation is standardised before anything else, for sections that
        differ more from one another than domains do; None leaves it as it is.
    neighbors_key
        Prefix of the neighbour graph's key in `obsp`.
    seed
        Seed of starts and subsamples.
    key_added
        Where results go: the domains into the categorical `obs[key_added]`, named `"1"`, `"2"` and so on from the
        largest to the smallest; the arguments into `uns[key_added]`, with `stability`, a table with the columns
        `n_domains` and `ari`, where several numbers were tried.

    Raises
    ------
    KeyError
        If a key is not there; the message lists those that are.
    ValueError
        If an argument is out of range, or the graph joins two sections.

    Warns
    -----
    UserWarning
        If no resolution gives exactly `n_domains`; the nearest number is taken.

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
    refuse_unknown("method", method, get_args(Method))
    keys = {"sample_key": sample_key, "scale_by": scale_by, "neighbors_key": neighbors_key}
    values = representation(adata, use_rep)
    rows = embedded(values, use_rep)
    values = scaled_within(values, None if scale_by is None else groups(adata, scale_by, "scale_by"))
    values = _smoothed(adata, values[rows], rows, smooth, sample_key, neighbors_key)
    values = _reduced(values, seed)
    candidates = _candidates(n_domains, len(values))
    stability = _stability(values, candidates, method, seed) if len(candidates) > 1 else None
    n_chosen = candidates[0] if stability is None else _most_stable_peak(stability)
    adata.obs[key_added] = _named(_cluster(values, n_chosen, method, seed), rows)
    adata.uns[key_added] = {
        "params": {"n_domains": n_chosen, "use_rep": use_rep, "method": method, "smooth": smooth, "seed": seed}
        | {name: value for name, value in keys.items() if value is not None},
        **({} if stability is None else {"stability": stability}),
    }


def _smoothed(
    adata: AnnData, values: np.ndarray, rows: np.ndarray, rounds: int, sample_key: str | None, neighbors_key: str
) -> np.ndarray:
    """Average over each spot and its embedded neighbours, `rounds` times.

    The means stand alone: with the spot's own numbers beside them, rare spots become domains of their own.
    """
    if rounds < 0:
        raise ValueError(f"smooth={rounds} must be a number of rounds, 0 or more.")
    if rounds == 0:
        return values
    sections = None if sample_key is None else groups(adata, sample_key, "sample_key")
    mean = neighborhood_mean_operator(adata, rows, neighbors_key, sections, instead="smooth=0")
    for _ in range(rounds):
        values = mean @ values
    return values


def _reduced(values: np.ndarray, seed: int) -> np.ndarray:
    n_components = min(N_COMPONENTS, len(values))
    return PCA(n_components, random_state=seed).fit_transform(values) if values.shape[1] > n_components else values


def _candidates(n_domains: int | Iterable[int] | None, n_spots: int) -> list[int]:
    """Return the numbers of domains to try, in rising order."""
    most = int(SUBSAMPLE * n_spots)
    if n_domains is None:
        return [number for number in CANDIDATES if number <= max(most, 2)]
    candidates = sorted({n_domains} if isinstance(n_domains, int | np.integer) else set(n_domains))
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
    """Bisect for the resolution that gives `n_domains`; the number nearest to it where none does."""
    light = AnnData(obsm={"values": values}, obs=pd.DataFrame(index=[str(row) for row in range(len(values))]))
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
    warnings.warn(f"No resolution of Leiden gives {n_domains} domains; took {nearest.max() + 1}.", stacklevel=4)
    return nearest


def _stability(values: np.ndarray, candidates: list[int], method: Method, seed: int) -> pd.DataFrame:
    """Compare clusterings of subsamples with one another, for every number of domains."""
    rng = np.random.default_rng(seed)
    n_kept = int(SUBSAMPLE * len(values))
    subsamples = [np.sort(rng.choice(len(values), n_kept, replace=False)) for _ in range(N_SUBSAMPLES)]
    table = []
    for number in candidates:
        labels = [
            pd.Series(_cluster(values[kept], number, method, seed + turn, n_starts=1), index=kept)
            for turn, kept in enumerate(subsamples)
        ]
        agreement = np.mean([_agreement(one, other) for one, other in combinations(labels, 2)])
        table.append((number, float(agreement)))
    return pd.DataFrame(table, columns=["n_domains", "ari"])


def _agreement(one: pd.Series, other: pd.Series) -> float:
    shared = one.index.intersection(other.index)
    return float(adjusted_rand_score(one[shared], other[shared]))


def _most_stable_peak(stability: pd.DataFrame) -> int:
    """Return the number whose stability is the highest of those above both their neighbours'; the best if none is."""
    ari = stability["ari"].to_numpy()
    peaks = 1 + np.flatnonzero((ari[1:-1] > ari[:-2]) & (ari[1:-1] > ari[2:]))
    best = peaks[ari[peaks].argmax()] if len(peaks) else ari.argmax()
    return int(stability["n_domains"][best])


def _named(labels: np.ndarray, rows: np.ndarray) -> pd.Categorical:
    """Name the clusters by number from the largest to the smallest; spots outside `rows` are missing."""
    found, sizes = np.unique(labels, return_counts=True)
    place = np.empty(found.max() + 1, dtype=int)
    place[found[np.argsort(-sizes, kind="stable")]] = np.arange(len(found))
    names = pd.Index([str(number + 1) for number in range(len(found))], dtype=object)
    codes = np.full(len(rows), -1)
    codes[rows] = place[labels]
    return pd.Categorical.from_codes(codes, names)
