"""The linear counterpart of the model: ridge regression on principal components of a spot and of its neighbours."""

import time

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from sagefm._correlation import Moments, recovery_table
from sagefm._graph import neighbor_mean_operator

N_COMPONENTS = 50
MASK_FRACTION = 0.3
ALPHA = 100.0


class LinearModel:
    """Predict every gene from what is left of a spot and from the mean of its neighbours.

    Counts are scaled to the median depth of their section, by the genes that are seen. What is masked in a spot is
    filled in with the mean of its neighbours. Spot and neighbours are projected on the same components, and a ridge
    regression leads from these to the genes.
    """

    def __init__(self, train: ad.AnnData) -> None:
        start = time.perf_counter()
        self._train, self._genes = train, train.var_names
        self._components, self._ridge = self._fit(np.zeros(train.n_vars, dtype=bool))
        self.seconds = time.perf_counter() - start

    def get_masked_recovery(self, adata: ad.AnnData, n_masks: int = 1, seed: int = 0) -> pd.DataFrame:
        """Score as `SAGEFM.get_masked_recovery` does, with other random masks."""
        rng = np.random.default_rng(seed)
        moments = []
        shared = self._genes.isin(adata.var_names)
        for section in _sections(adata, self._genes):
            masks = (rng.random(section.counts.shape) / MASK_FRACTION).astype(int)
            connected = section.connected
            part = Moments.start(section.logged[:, shared].sum(axis=0), len(section.counts))
            for number in range(n_masks):
                mask = masks == number
                predicted = self._ridge.predict(section.features(self._components, mask))
                arrays = (mask, section.logged, predicted, section.around)
                part.add(*(values[connected][:, shared] for values in arrays))
            moments.append(part)
        return recovery_table(moments, self._genes[shared])

    def impute_masked(self, adata: ad.AnnData, genes: list[str]) -> pd.DataFrame:
        """Predict genes that are hidden from every spot, by a regression that never reads them."""
        hidden = self._genes.isin(genes)
        components, ridge = self._fit(hidden)
        parts = []
        for section in _sections(adata, self._genes):
            section.hide(hidden)
            nothing = np.zeros(section.counts.shape, dtype=bool)
            predicted = ridge.predict(section.features(components, nothing))
            parts.append(pd.DataFrame(predicted, index=section.names, columns=self._genes)[genes])
        return pd.concat(parts).loc[adata.obs_names]

    def _fit(self, hidden: np.ndarray) -> tuple[np.ndarray, Ridge]:
        rng = np.random.default_rng(0)
        sections = list(_sections(self._train, self._genes))
        truth = np.concatenate([section.logged for section in sections])
        for section in sections:
            section.hide(hidden)
        seen = np.concatenate([section.logged for section in sections])
        components = TruncatedSVD(N_COMPONENTS, random_state=0).fit(sp.csr_matrix(seen)).components_.T
        masks = [rng.random(section.counts.shape) < (0 if hidden.any() else MASK_FRACTION) for section in sections]
        features = [section.features(components, mask) for section, mask in zip(sections, masks, strict=True)]
        return components, Ridge(ALPHA).fit(np.concatenate(features), truth)


class _Section:
    """One section in the order of the genes of the model; a gene that it lacks is zero."""

    def __init__(self, adata: ad.AnnData, genes: pd.Index) -> None:
        self.names = adata.obs_names
        self.counts = np.zeros((adata.n_obs, len(genes)), dtype=np.float32)
        columns = adata.var_names.get_indexer(genes)
        self.counts[:, columns >= 0] = adata.X[:, columns[columns >= 0]].toarray()
        self._operator = neighbor_mean_operator(sp.csr_matrix(adata.obsp["spatial_connectivities"]))
        self.connected = np.diff(self._operator.indptr) > 0
        self._update()

    def hide(self, genes: np.ndarray) -> None:
        """Leave genes out of counts and of library sizes."""
        self.counts[:, genes] = 0
        self._update()

    def _update(self) -> None:
        self.depth = np.maximum(self.counts.sum(axis=1), 1)
        self.logged = self._log(self.counts, self.depth)
        self.around = self._operator @ self.logged

    def _log(self, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return np.log1p(counts * (np.median(depth) / depth)[:, None])

    def features(self, components: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the components of the spot, filled in where masked, beside those of its neighbours' mean."""
        seen = np.where(mask, 0, self.counts)
        own = np.where(mask, self.around, self._log(seen, np.maximum(seen.sum(axis=1), 1)))
        return np.hstack([own @ components, self.around @ components])


def _sections(adata: ad.AnnData, genes: pd.Index):
    for name in adata.obs["sample"].unique():
        yield _Section(adata[adata.obs["sample"] == name], genes)
