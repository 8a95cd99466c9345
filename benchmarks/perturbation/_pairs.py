"""Random pairs matched to given ones in mean and standard deviation, and how well a score tells them apart."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from sagefm import SAGEFM
from sagefm._controls import ControlPool


def matched_random(model: SAGEFM, pairs: pd.DataFrame, seed: int, n_each: int = 1) -> pd.DataFrame:
    """Replace both genes of every pair by random ones out of the 100 most alike; never a pair that is given."""
    spots, rng = model._spots_of(None), np.random.default_rng(seed)
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
    """Say the AUROC and its 95 % interval, by bootstrap over the known pairs and over the others."""
    rng, found = np.random.default_rng(seed), []
    kinds = [score[known], score[~known]]
    truth = np.repeat([True, False], [len(kind) for kind in kinds])
    for _ in range(500):
        found.append(roc_auc_score(truth, np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])))
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{roc_auc_score(known, score):.3f} [{low:.3f}, {high:.3f}]"


def beyond(score: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return what ranks of `score` hold that a straight line through ranks of `other` does not tell."""
    y, x = rankdata(score), rankdata(other)
    return y - np.polyval(np.polyfit(x, y, 1), x)
