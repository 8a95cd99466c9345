"""What is compared on the same targets and the same matched genes: models, and correlations of the measured values."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi

import sagefm
from sagefm.data import Spots, registered_spots
from sagefm.model.perturbation import Counterfactual, Levels, TargetSet, Where, masked_effects

MAX_SPOTS = 256  # random spots over which effects are averaged
Effects = Callable[[TargetSet, Where, bool], np.ndarray]  # on `genes` of the set; whether they are masked


def spots_of(model: sagefm.SAGEFM) -> Spots:
    """Return the spots of the model's own section."""
    return registered_spots(model.adata_manager, model.module.normalization)


def read(path: Path) -> ad.AnnData:
    """Read a section without its empty spots."""
    adata = ad.read_h5ad(path)
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


# Models ---------------------------------------------------------------------------------------------------------------


def from_scratch(adata: ad.AnnData, seed: int) -> sagefm.SAGEFM:
    """Train a model with default arguments on the section alone."""
    adata = adata.copy()
    del adata.uns["_scvi_uuid"]
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(enable_progress_bar=False)
    return model


def with_random_weights(weights: str, adata: ad.AnnData, seed: int) -> sagefm.SAGEFM:
    """Return the pre-trained model with all layers drawn anew."""
    model = sagefm.SAGEFM.from_pretrained(weights, adata)
    scvi.settings.seed = seed
    for layer in model.module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model


def effects_of(model: sagefm.SAGEFM, genes: pd.Index, seed: int = 0) -> Effects:
    """Return scaled effects of a model; sets hold positions in `genes`, of which it needs only those of the section."""
    spots = spots_of(model)
    rows = np.sort(np.random.default_rng(seed).permutation(spots.n_obs)[:MAX_SPOTS])
    _, deviation = spots.gene_moments(np.arange(spots.n_obs))
    own, groups = model.genes.get_indexer(genes), np.full((1, len(rows)), 1 / len(rows), dtype=np.float32)

    @cache
    def counterfactual(where: Where) -> Counterfactual:
        return Counterfactual(model.module, spots, rows, np.arange(len(model.genes)), where, mask_targets=True)

    def effects(targets: TargetSet, where: Where, masked: bool) -> np.ndarray:
        read, source = own[targets.genes], own[targets.regulators]
        if masked:
            found = masked_effects(counterfactual(where), source, read, Levels.parse(2), groups)
        else:
            found = counterfactual(where).mean_changes(source, Levels.parse(2), read, groups)
        return found[0] / deviation[read]

    return effects


def saved_effects(folder: Path, adata: ad.AnnData, genes: pd.Index) -> Effects:
    """Return scaled effects of a model from a folder of `model.save`; genes that it does not know have none."""
    adata = adata.copy()
    del adata.uns["_scvi_uuid"]
    adata.obs["sample"] = "section"  # the column of the setup of that model
    model = sagefm.SAGEFM.load(folder, adata)
    effects, known = effects_of(model, genes), genes.isin(model.genes)

    def of_known(targets: TargetSet, where: Where, masked: bool) -> np.ndarray:
        found, read = np.zeros(len(targets.genes)), known[targets.genes]
        regulators = targets.regulators[known[targets.regulators]]
        if len(regulators):
            found[read] = effects(SimpleNamespace(regulators=regulators, genes=targets.genes[read]), where, masked)
        return found

    return of_known


# Correlations ---------------------------------------------------------------------------------------------------------


def section_correlation(spots: Spots) -> Effects:
    """Return the correlation of each target with the source, in the spot or averaged over its neighbours."""
    logged = spots.log(np.arange(spots.n_obs)).tocsc()

    def correlations(targets: TargetSet, where: Where, _: bool) -> np.ndarray:
        source = _upstream(logged[:, targets.regulators], spots, where)
        return _correlate(source, logged[:, targets.genes].toarray()).mean(axis=0)

    return correlations


def pooled_correlations(sections: Iterable[Spots], genes: pd.Index, needed: np.ndarray) -> dict[str, Effects]:
    """Return correlations over the spots of several sections: around the means of each section, and around all."""
    sums = {where: _Sums(len(needed), len(genes)) for where in ("self", "neighbors")}
    for spots in sections:
        logged = spots.log(np.arange(spots.n_obs))
        for where, total in sums.items():
            total.add(_upstream(logged[:, needed], spots, where), logged, spots.known[needed], spots.known)
    return {name: _looked_up(sums, needed, name == "pooled_across") for name in ("pooled", "pooled_across")}


def _looked_up(sums: dict[str, "_Sums"], needed: np.ndarray, across: bool) -> Effects:
    pooled = {where: total.correlations(across) for where, total in sums.items()}

    def correlations(targets: TargetSet, where: Where, _: bool) -> np.ndarray:
        rows = np.searchsorted(needed, targets.regulators)
        return pooled[where][rows][:, targets.genes].mean(axis=0)

    return correlations


class _Sums:
    """Moments within and between sections, over spots where source and target are both in the panel.

    Each is (sources, genes): numbers of spots, sums of section means, and sums of variances and covariances.
    """

    def __init__(self, n_sources: int, n_genes: int) -> None:
        shape = (n_sources, n_genes)
        self.n, self.x, self.y = np.zeros((3, *shape), dtype=np.float32)
        self.within, self.between = np.zeros((2, 3, *shape), dtype=np.float32)

    def add(self, source: np.ndarray, logged: sp.csr_matrix, known: np.ndarray, known_genes: np.ndarray) -> None:
        n = len(source) * np.outer(known, known_genes).astype(np.float32)
        x, y = source.mean(axis=0)[:, None], np.asarray(logged.mean(axis=0))
        variance = np.asarray(logged.multiply(logged).mean(axis=0)) - y**2
        covariance = (logged.T @ source).T / len(source) - x * y
        self.n, self.x, self.y = self.n + n, self.x + n * x, self.y + n * y
        for total, new in zip(self.within, (source.var(axis=0)[:, None], variance, covariance), strict=True):
            total += n * new
        for total, new in zip(self.between, (x**2, y**2, x * y), strict=True):
            total += n * new

    def correlations(self, across: bool) -> np.ndarray:
        """Return pooled correlations; 0 where source or target do not vary."""
        n = np.maximum(self.n, 1)
        x, y = self.x / n, self.y / n
        shift = (between / n - moved for between, moved in zip(self.between, (x**2, y**2, x * y), strict=True))
        xx, yy, xy = (within / n + (other if across else 0) for within, other in zip(self.within, shift, strict=True))
        size = np.sqrt(np.maximum(xx, 0) * np.maximum(yy, 0))
        return np.divide(xy, size, out=np.zeros_like(size), where=size > 1e-9)


def _upstream(source: sp.spmatrix, spots: Spots, where: Where) -> np.ndarray:
    """Return the values of sources in each spot, or their means over its neighbours, (spots, sources)."""
    values = source.toarray().astype(np.float64)
    return values if where == "self" else spots.mean_operator @ values


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return correlations between the columns of two arrays; 0 where one does not vary."""
    x, y = (values - values.mean(axis=0) for values in (x, y))
    size = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    return np.divide(x.T @ y, size, out=np.zeros_like(size), where=size > 1e-9)
