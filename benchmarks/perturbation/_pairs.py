"""Random pairs matched to given pairs in mean and standard deviation, and how well a score separates the two."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from sagefm import SAGEFM
from sagefm.data import registered_spots
from sagefm.model.perturbation import ControlPool


def matched_random(model: SAGEFM, pairs: pd.DataFrame, seed: int, n_each: int = 1) -> pd.DataFrame:
    """Replace both genes of every pair by random ones of the 100 most similar genes; given pairs are excluded."""
    spots = registered_spots(model.adata_manager, model.module.normalization)
    rng = np.random.default_rng(seed)
    pool = ControlPool(*spots.gene_moments(np.arange(spots.n_obs)), 100, seed + 1000)
    given, rows = set(pairs[["source", "target"]].itertuples(index=False, name=None)), set()
    for pair in given:
        parts = [model.genes.get_indexer(name.split("_")) for name in pair]
        near = [model.genes[pool.matched(part, np.concatenate(parts))] for part in parts]
        for _ in range(n_each):
            rows.add(tuple(rng.choice(genes) for genes in near))
    rows = sorted(pair for pair in rows - given if pair[0] != pair[1])
    return pd.DataFrame(rows, columns=["source", "target"])


def auroc(known: np.ndarray, score: np.ndarray, seed: int = 0) -> str:
    """Return the AUROC and its 95 % interval as text, by bootstrap over the known pairs and over the others."""
    rng, found = np.random.default_rng(seed), []
    kinds = [score[known], score[~known]]
    truth = np.repeat([True, False], [len(kind) for kind in kinds])
    for _ in range(500):
        found.append(roc_auc_score(truth, np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])))
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{roc_auc_score(known, score):.3f} [{low:.3f}, {high:.3f}]"


def beyond(score: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the residuals of a linear regression of the ranks of `score` on the ranks of `other`."""
    y, x = rankdata(score), rankdata(other)
    return y - np.polyval(np.polyfit(x, y, 1), x)
