"""Spatial domains: clusters of spots by any representation, as wide or as narrow as the tissue has them."""

import warnings
from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from sagefm._errors import refuse_unknown
from sagefm.data import refuse_unwritable_key
from sagefm.tl._colors import write_colors
from sagefm.tl._consensus import SUBSAMPLE, agreement, clusterings_of, co_membership
from sagefm.tl._inputs import groups, neighborhood_means, representation, scaled_within
from sagefm.tl._stability import most_stable, stability_table
from sagefm.tl._views import views_of_tissue

Method = Literal["gmm", "leiden"]
N_COMPONENTS = 20  # principal components to which a wider representation is reduced
N_STARTS = 5  # starts of the Gaussian mixture, of which the one with the highest likelihood is kept
CANDIDATES = range(4, 11)  # numbers of domains tried by default
MAX_RESOLUTION, N_BISECTIONS = 16.0, 30


def domains(
    adata: AnnData,
    n_domains: int | Iterable[int] | None = None,
    *,
    use_rep: str = "X_sagefm",
    method: Method = "gmm",
    smooth: int | Literal["auto"] = "auto",
    layer: str | None = None,
    sample_key: str | None = None,
    scale_by: str | None = None,
    neighbors_key: str = "spatial",
    seed: int = 0,
    key_added: str = "domain",
) -> None:
    """Cluster spots into spatial domains.

    By default the domains are a consensus of 24 clusterings. They look at the tissue in turn through three views, each
    of which shows domains of another width: the representation filtered by factorial kriging
    (:func:`sagefm.tl.spatial_filter`), the representation averaged over each spot and its neighbours, and principal
    components of expression filtered in the same way. Next to each stand components of expression averaged over the
    neighbours. Each clustering is a Gaussian mixture fitted to a random 80 % of the spots. The domains are clusters of
    spots that many of these clusterings put together, as in consensus clustering [#monti]_.

    All sections of `adata` are clustered together, so a domain has the same name in each of them; the neighbour graph
    joins spots of the same section only, so smoothing stays within it.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp` unless `smooth` is 0.
    n_domains
        Number of domains; or several numbers, of which one is chosen; None is 4 to 10. The stability of a number is the
        mean adjusted Rand index between the domains and the clusterings of random parts of the spots. It falls with the
        number in any tissue, so the number that is most stable above the linear trend is chosen. A log line names it
        and the runner-up. It is an estimate: look at :func:`sagefm.pl.stability` before you rely on it.
    use_rep
        Key in `obsm` of the representation, one row per spot. Spots with NaN in their row get no domain.
    method
        `"gmm"`: a Gaussian mixture whose components share one covariance, the one with the highest likelihood of five
        starts. `"leiden"`: Leiden on the graph of the 15 nearest neighbours, at the resolution that gives `n_domains`.
    smooth
        `"auto"`: the consensus of views described above. A number clusters the representation alone, once: it is how
        many times each spot's representation is replaced by the mean over the spot and its neighbours. Then 1 suits
        domains many spots wide, and 0 domains about as narrow as the neighbourhood.
    layer
        Layer with expression for `smooth="auto"`; None is X. Raw counts are normalised and logged, other values are
        taken as they are. If X is None, the views are those of the representation alone.
    sample_key
        Column of `obs` with the section of each spot. Filters and gene scales are estimated in each section; an edge
        between sections is an error.
    scale_by
        Column of `obs` within whose groups the representation is standardised before anything else, for sections that
        differ more from one another than domains do; None leaves it as it is.
    neighbors_key
        Prefix of the neighbour graph's key in `obsp`.
    seed
        Seed of starts and subsamples.
    key_added
        Where results are stored: the domains in the categorical `obs[key_added]`, named `"1"`, `"2"` and so on from the
        largest to the smallest; their colours in `uns[f"{key_added}_colors"]`, where scanpy and squidpy look for them
        (:func:`sagefm.tl.match_colors` takes those of an annotation); the arguments in `uns[key_added]`, with
        `stability`, a table with the columns `n_domains`, `ari` and `above_trend`, if several numbers were tried.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If an argument is out of range, or the graph joins two sections.

    Warns
    -----
    UserWarning
        If no resolution gives exactly `n_domains`; the nearest number is used. If some of `n_domains` have no spots, as
        when many spots have the same representation.

    References
    ----------
    .. [#monti] S. Monti, P. Tamayo, J. Mesirov and T. Golub, "Consensus clustering", Machine Learning 52 (2003).

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
    if smooth != "auto" and (not isinstance(smooth, int | np.integer) or smooth < 0):
        raise ValueError(f'smooth={smooth!r} must be "auto" or a number of rounds, 0 or more.')
    values, embedded = representation(adata, use_rep)
    if scale_by is not None:
        values = scaled_within(values, groups(adata, scale_by, "scale_by"))
    if not np.ptp(values[embedded], axis=0).any():
        raise ValueError(f"All rows of obsm[{use_rep!r}] are the same, so no domains can be distinguished.")
    candidates = _candidates(n_domains, int(embedded.sum()))
    views = _views(adata, values, embedded, smooth, layer, sample_key, neighbors_key, seed)
    tried = {number: _cluster(views, number, method, seed, compare=len(candidates) > 1) for number in candidates}
    stability = stability_table({number: ari for number, (_, ari) in tried.items()})
    chosen = candidates[0] if len(candidates) == 1 else most_stable(stability)
    adata.obs[key_added] = _named(tried[chosen][0], embedded)
    n_found = adata.obs[key_added].cat.categories.size
    if method == "gmm" and n_found < chosen:
        warnings.warn(f"Only {n_found} of {chosen} domains have spots; pass a smaller n_domains.", stacklevel=2)
    write_colors(adata, key_added)
    params = {"n_domains": chosen, "use_rep": use_rep, "method": method, "smooth": smooth, "seed": seed}
    keys = {"layer": layer, "sample_key": sample_key, "scale_by": scale_by, "neighbors_key": neighbors_key}
    adata.uns[key_added] = {"params": params | {name: key for name, key in keys.items() if key is not None}}
    if len(candidates) > 1:
        adata.uns[key_added]["stability"] = stability


def _views(
    adata: AnnData,
    values: np.ndarray,
    embedded: np.ndarray,
    smooth: int | Literal["auto"],
    layer: str | None,
    sample_key: str | None,
    neighbors_key: str,
    seed: int,
) -> list[np.ndarray]:
    """Return what is clustered, each (embedded spots, axes): several views, or the representation smoothed."""
    if smooth == "auto":
        sections = None if sample_key is None else groups(adata, sample_key, "sample_key")
        return views_of_tissue(
            adata,
            values[embedded],
            embedded,
            sections=sections,
            neighbors_key=neighbors_key,
            layer=layer,
            seed=seed,
        )
    if smooth > 0:
        # Only the means are clustered: with the spot's own values next to them, rare spots become their own domains.
        values = neighborhood_means(adata, values, embedded, neighbors_key, sample_key, int(smooth))
    values = values[embedded]
    if values.shape[1] > (n_components := min(N_COMPONENTS, len(values))):
        values = PCA(n_components, random_state=seed).fit_transform(values)
    return [values]


def _candidates(n_domains: int | Iterable[int] | None, n_spots: int) -> list[int]:
    """Return the numbers of domains to try, in ascending order."""
    most = int(SUBSAMPLE * n_spots)
    if n_domains is None:
        if most < CANDIDATES[0]:
            raise ValueError(f"There are only {n_spots} embedded spots; pass the number of domains as n_domains.")
        return [number for number in CANDIDATES if number <= most]
    numbers: set[Any] = set(n_domains) if isinstance(n_domains, Iterable) else {n_domains}
    if any(not isinstance(number, Real) or number % 1 != 0 for number in numbers):
        raise ValueError(f"n_domains={n_domains!r} must be a whole number, or several.")
    candidates = sorted(numbers)
    most = n_spots if len(candidates) == 1 else most
    if not candidates or not 1 <= candidates[0] <= candidates[-1] <= most:
        raise ValueError(f"n_domains={n_domains!r} must lie between 1 and {most}; there are {n_spots} embedded spots.")
    return [int(number) for number in candidates]


def _cluster(
    views: list[np.ndarray], n_domains: int, method: Method, seed: int, *, compare: bool
) -> tuple[np.ndarray, float]:
    """Return the cluster of every spot, and its agreement with single clusterings; NaN unless they are compared."""
    clusterings = clusterings_of(views, n_domains, seed) if compare or len(views) > 1 else None
    values = views[0] if len(views) == 1 or clusterings is None else co_membership(clusterings)
    labels = _leiden(values, n_domains, seed) if method == "leiden" else _mixture(values, n_domains, seed)
    return labels, agreement(labels, clusterings) if compare and clusterings is not None else np.nan


def _mixture(values: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    mixture = GaussianMixture(n_domains, covariance_type="tied", n_init=N_STARTS, random_state=seed)
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


def _named(labels: np.ndarray, embedded: np.ndarray) -> pd.Categorical:
    """Name the clusters by number from the largest to the smallest; spots that are not `embedded` are missing."""
    found, sizes = np.unique(labels, return_counts=True)
    by_size = pd.Index(found[np.argsort(-sizes, kind="stable")])
    codes = np.full(len(embedded), -1)
    codes[embedded] = by_size.get_indexer(labels)
    return pd.Categorical.from_codes(codes, pd.Index([str(number + 1) for number in range(len(found))], dtype=object))
