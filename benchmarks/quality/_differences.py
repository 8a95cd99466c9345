"""Differences between sagefm and the other methods on the same sections, with intervals by bootstrap over sections."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from _protocol import PROTOCOL
from scipy.stats import bootstrap

REFERENCE, DEFAULT = "sagefm", "auto"  # the method that others are compared with, and its `smooth`
CONFIDENCE, N_RESAMPLES, SEED = 0.95, 9999, 0
MIN_SECTIONS = 4  # fewer sections get no interval
SECTIONS = list(PROTOCOL["domains"]["datasets"])
CORTEX, CELLS = (PROTOCOL["domains"]["groups"][name] for name in ("cortex", "single_cells"))
OTHERS = [name for name in SECTIONS if name not in CORTEX + CELLS]
GROUPS = {"all": SECTIONS, "cortex, Visium": CORTEX, "other tissue, legacy ST": OTHERS, "single cells": CELLS}


class Difference(NamedTuple):
    """Mean of paired differences over sections; `low` and `high` are NaN where there are too few sections."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return ""
        if np.isnan(self.low):
            return f"{self.mean:+.2f}"
        text = f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"
        return text if self.low <= 0 <= self.high else f"**{text}**"


def by_section(scores: pd.DataFrame, smooth: str) -> pd.DataFrame:
    """Return the ARI of the Gaussian mixture as a table of sections by methods: means over all seeds.

    `smooth` is that of `tl.domains`. Methods that return domains themselves are part of the table for `smooth="0"`.
    """
    kept = scores[scores["metric"].eq("ARI") & scores["smooth"].eq(smooth)]
    kept = kept[kept["clustering"].isin(["gmm", "its own"])]
    by_seed = kept.groupby(["dataset", "method", "seed"])["value"].mean()
    return by_seed.groupby(["dataset", "method"]).mean().unstack()


def paired(scores: pd.DataFrame, smooth: str) -> pd.DataFrame:
    """Return the ARI of sagefm with the default of `tl.domains` minus that of each method, sections by methods."""
    ours, others = by_section(scores, DEFAULT)[REFERENCE], by_section(scores, smooth)
    return (others.drop(columns=REFERENCE) if smooth == DEFAULT else others).rsub(ours, axis=0)


def mean_difference(values: pd.Series) -> Difference:
    """Return the mean over sections with its interval; sections without a value are left out."""
    values = values.dropna().to_numpy()
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < MIN_SECTIONS or np.ptp(values) == 0:
        return Difference(mean, np.nan, np.nan, len(values))
    options = {"confidence_level": CONFIDENCE, "n_resamples": N_RESAMPLES, "method": "percentile"}
    found = bootstrap((values,), np.mean, rng=np.random.default_rng(SEED), **options).confidence_interval
    return Difference(mean, float(found.low), float(found.high), len(values))


def sections_higher(differences: pd.DataFrame) -> pd.Series:
    """Return in how many of the sections the ARI of sagefm is higher than that of each method, as text."""
    higher, known = (differences > 0).sum(), differences.notna().sum()
    return higher.astype(str) + " of " + known.astype(str)


def by_group(differences: pd.DataFrame) -> dict[str, dict[str, Difference]]:
    """Return the mean difference of each method, for each group of sections."""
    return {
        group: {method: mean_difference(values) for method, values in differences.reindex(sections).items()}
        for group, sections in GROUPS.items()
    }
