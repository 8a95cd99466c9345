"""Linear counterpart of the model: ridge regression on principal components of a spot and of its neighbours."""

import time

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from sagefm.data import neighbor_mean_operator
from sagefm.model import (
    Autocorrelation,
    LagPairs,
    Moments,
    SectionScores,
    effective_size,
    noise_ceiling,
    recovery_table,
)
from sagefm.module import RidgeSums, SectionFit

N_COMPONENTS = 50
MASK_FRACTION = 0.3
ALPHA = 100.0
N_FOLDS, FLOOR = 3, 0.4  # as in the section fit and the normalisation of the model
SETTINGS = SectionFit(n_components=10, feature_penalty=60.0)  # best of several values tried on the development sections


class LinearModel:
    """Predict every gene from the unmasked genes of a spot and from the mean of its neighbours.

    Counts are scaled to the median library size of their section, using only unmasked genes. Masked entries of a spot
    are filled in with the mean of its neighbours. The spot and the mean of its neighbours are projected onto the same
    components, and a ridge regression on these predicts the genes.
    """

    def __init__(self, train: ad.AnnData) -> None:
        start = time.perf_counter()
        self._train, self._genes = train, train.var_names
        self._components, self._ridge = self._fit(np.zeros(train.n_vars, dtype=bool))
        self.seconds = time.perf_counter() - start

    def get_masked_recovery(self, adata: ad.AnnData, n_masks: int = 1, seed: int = 0) -> pd.DataFrame:
        """Score in the same way as `SAGEFM.get_masked_recovery`, with different random masks."""
        return _masked_recovery(self._predict, adata, self._genes, n_masks, seed)

    def _predict(self, section: "_Section", mask: np.ndarray) -> np.ndarray:
        return self._ridge.predict(section.features(self._components, mask))

    def impute_masked(self, adata: ad.AnnData, genes: list[str]) -> pd.DataFrame:
        """Predict genes that are masked in every spot, by a regression that does not use them as input."""
        masked = self._genes.isin(genes)
        components, ridge = self._fit(masked)
        parts = []
        for section in _sections(adata, self._genes):
            section.mask_genes(masked)
            nothing = np.zeros(section.counts.shape, dtype=bool)
            predicted = ridge.predict(section.features(components, nothing))
            parts.append(pd.DataFrame(predicted, index=section.names, columns=self._genes)[genes])
        return pd.concat(parts).loc[adata.obs_names]

    def _fit(self, masked: np.ndarray) -> tuple[np.ndarray, Ridge]:
        """Return components and regression of all genes on those not `masked`, boolean (genes,)."""
        rng = np.random.default_rng(0)
        sections = list(_sections(self._train, self._genes))
        truth = np.concatenate([section.logged for section in sections])
        for section in sections:
            section.mask_genes(masked)
        unmasked = np.concatenate([section.logged for section in sections])
        components = TruncatedSVD(N_COMPONENTS, random_state=0).fit(sp.csr_matrix(unmasked)).components_.T
        masks = [rng.random(section.counts.shape) < (0 if masked.any() else MASK_FRACTION) for section in sections]
        features = [section.features(components, mask) for section, mask in zip(sections, masks, strict=True)]
        return components, Ridge(ALPHA).fit(np.concatenate(features), truth)


class SectionModel:
    """The section fit of `sagefm.module._section_decoder` with principal components in place of the network.

    The components are those of the section itself, and nothing is learnt from other sections. This measures what a
    section fit achieves without a network. Masked entries are filled in with the mean of the neighbours.
    """

    def __init__(self, genes: pd.Index) -> None:
        self._genes = genes

    def get_masked_recovery(self, adata: ad.AnnData, n_masks: int = 1, seed: int = 0) -> pd.DataFrame:
        """Score in the same way as `SAGEFM.get_masked_recovery`, with different random masks."""
        return _masked_recovery(self._predict, adata, self._genes, n_masks, seed)

    def _predict(self, section: "_Section", mask: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        filled = np.where(mask, section.neighbors, section.logged)
        mean, scale = filled.mean(axis=0), np.sqrt(filled.var(axis=0) + FLOOR**2)
        components = TruncatedSVD(SETTINGS.n_components, random_state=0).fit(sp.csr_matrix(filled)).components_.T
        target, neighbors = ((values - mean) / scale for values in (section.logged, section.neighbors))
        center = section.features(components, mask)
        offset, center = center.mean(axis=0), center - center.mean(axis=0)
        # Mean over the unmasked entries of the neighbours.
        share = section.mean_over_neighbors(~mask)
        unmasked = section.mean_over_neighbors(np.where(mask, 0, section.logged))
        unmasked = np.where(share == 0, 0, (unmasked / np.maximum(share, 1e-9) - mean) / scale)
        sums, fold = RidgeSums(len(self._genes), center.shape[1]), rng.integers(N_FOLDS, size=mask.shape)
        for number in range(N_FOLDS):
            features = section.features(components, mask | (fold == number)) - offset
            scored = ~mask & (fold == number)
            sums.add(*(torch.from_numpy(np.float32(values)) for values in (scored, target, unmasked, features)))
        nothing = np.zeros((len(self._genes), center.shape[1]))
        weight, neighbor_weight = sums.solve(nothing, [components.shape[1]] * 2, SETTINGS)
        return (center @ weight.T + neighbor_weight * neighbors) * scale + mean


class _Section:
    """One section, with its genes in the order of the model; genes missing from the section are zero."""

    def __init__(self, adata: ad.AnnData, genes: pd.Index) -> None:
        self.names = adata.obs_names
        self.counts = np.zeros((adata.n_obs, len(genes)), dtype=np.float32)
        columns = adata.var_names.get_indexer(genes)
        self.counts[:, columns >= 0] = adata.X[:, columns[columns >= 0]].toarray()
        self.graph = sp.csr_matrix(adata.obsp["spatial_connectivities"])
        self._operator = neighbor_mean_operator(self.graph)
        self.connected = np.diff(self._operator.indptr) > 0
        self._update()

    def mask_genes(self, genes: np.ndarray) -> None:
        """Set genes to zero, so that they do not count towards the library sizes."""
        self.counts[:, genes] = 0
        self._update()

    def _update(self) -> None:
        self.depth = np.maximum(self.counts.sum(axis=1), 1)
        self.logged = self._log(self.counts, self.depth)
        self.neighbors = self.mean_over_neighbors(self.logged)

    def mean_over_neighbors(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of `values`, (spots, genes), over the neighbours of each spot."""
        return self._operator @ values.astype(np.float32)

    def _log(self, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return np.log1p(counts * (np.median(depth) / depth)[:, None])

    def features(self, components: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the components of each spot, with masked entries filled in, and of the mean of its neighbours."""
        unmasked = np.where(mask, 0, self.counts)
        own = np.where(mask, self.neighbors, self._log(unmasked, np.maximum(unmasked.sum(axis=1), 1)))
        return np.hstack([own @ components, self.neighbors @ components])


def _masked_recovery(predict, adata: ad.AnnData, genes: pd.Index, n_masks: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shared = genes.isin(adata.var_names)
    scores = [_section_scores(predict, section, shared, n_masks, rng) for section in _sections(adata, genes)]
    return recovery_table(scores, genes[shared])


def _section_scores(
    predict, section: "_Section", shared: np.ndarray, n_masks: int, rng: np.random.Generator
) -> SectionScores:
    """Score the masked entries of one section, with effective sizes and ceiling computed as for the model."""
    masks = (rng.random(section.counts.shape) / MASK_FRACTION).astype(int)
    members, mean = np.flatnonzero(section.connected), section.logged[:, shared].mean(axis=0)
    lags, every = LagPairs(section.graph, members), np.arange(len(members))
    observed, predicted = (Autocorrelation(lags, len(mean)) for _ in range(2))
    observed.add(every, section.logged[members][:, shared] - mean)
    moments = []
    for number in range(n_masks):
        mask = masks == number
        arrays = (mask, section.logged, predict(section, mask), section.neighbors)
        masked, truth, values, neighbors = (array[members][:, shared] for array in arrays)
        moments.append(Moments(mean * len(section.counts), len(section.counts)))
        moments[-1].add(masked, truth, values, neighbors)
        predicted.add(every, values - mean, masked)
    n = np.sum([part.n for part in moments], axis=0)
    ceiling = noise_ceiling(sp.csr_matrix(section.counts[members][:, shared]), float(np.median(section.depth)))
    return SectionScores(moments, effective_size(n, observed.by_distance(), predicted), ceiling)


def _sections(adata: ad.AnnData, genes: pd.Index):
    for name in adata.obs["sample"].unique():
        yield _Section(adata[adata.obs["sample"] == name], genes)
