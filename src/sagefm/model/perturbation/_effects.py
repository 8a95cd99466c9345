"""The columns of a perturbation: effects of sources on targets, and how pairs stand among their controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from sagefm.data import Spots
from sagefm.model._statistics import q_values
from sagefm.model.perturbation._controls import ControlEffects, ControlPool, standing
from sagefm.model.perturbation._counterfactual import Counterfactual, Expression, Where, summarize
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._pairs import Pairs

# Effects differ far more between pairs than between spots, so a part of the spots tells where a pair stands.
_CONTROL_SPOTS, _CONTROL_SPOTS_A_GROUP = 512, 64

_COLUMNS = (
    *("effect", "spread", "scaled_effect", "slope", "monotonicity", "reverse_effect", "scaled_reverse_effect"),
    *("neighbor_correlation", "control_percentile", "p", "q"),
)


def control_spots(groups: np.ndarray, seed: int) -> np.ndarray:
    """Draw the spots that pairs are compared with their controls on: some of each group, `groups` (groups, rows)."""
    rng, size = np.random.default_rng(seed), max(_CONTROL_SPOTS // len(groups), _CONTROL_SPOTS_A_GROUP)
    members = (np.flatnonzero(group) for group in groups)
    return np.sort(np.concatenate([rng.permutation(spots)[:size] for spots in members]))


def effects_of(
    screen: Counterfactual, asked: Pairs, levels: Levels, groups: np.ndarray, deviation: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns of effects, each (pairs, groups)."""
    shape = (len(asked.table), len(groups))
    columns = {name: np.full(shape, np.nan) for name in _COLUMNS[:7]}
    for source, chosen in asked.by("source"):
        parts = asked.parts[source]
        if not screen.movable(parts, levels.ends):
            continue
        dose = screen.dose(parts, levels)
        found = summarize(screen, parts, levels, asked.parts_of("target", chosen), groups)
        columns["effect"][chosen], columns["spread"][chosen] = found["effect"].T, found["spread"].T
        columns["slope"][chosen] = _slope(dose, found["response"]).T
        columns["monotonicity"][chosen] = _monotonicity(dose, found["response"]).T
    for target, chosen in asked.by("target"):
        parts = asked.parts[target]
        if screen.movable(parts, levels.ends):
            found = summarize(screen, parts, levels.ends, asked.parts_of("source", chosen), groups)
            columns["reverse_effect"][chosen] = found["effect"].T
    for name, role in (("effect", "target"), ("reverse_effect", "source")):
        columns[f"scaled_{name}"] = columns[name] / asked.mean_over_parts(role, deviation)[:, None]
    return columns


def _slope(dose: np.ndarray, response: np.ndarray) -> np.ndarray:
    centered = dose - dose.mean()
    return np.tensordot(centered, response, axes=1) / (centered @ centered)


def _monotonicity(dose: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation over the first axis; NaN where nothing responds."""
    x, y = rankdata(dose) - (len(dose) + 1) / 2, rankdata(response, axis=0) - (len(dose) + 1) / 2
    size = np.sqrt((x @ x) * (y**2).sum(axis=0))
    return np.divide(np.tensordot(x, y, axes=1), size, out=np.full(size.shape, np.nan), where=size > 0)


def neighbor_correlations(
    spots: Spots, expression: Expression, asked: Pairs, rows: np.ndarray, groups: np.ndarray, where: Where
) -> np.ndarray:
    """Correlate each target in the spots with its source's mean over their neighbours, (pairs, groups)."""
    operator, result = spots.mean_operator[rows], np.full((len(asked.table), len(groups)), np.nan)
    for source, chosen in asked.by("source"):
        measured = expression.columns(asked.parts[source]).mean(axis=1)
        x = measured[rows] if where == "self" else operator @ measured
        y = np.stack([expression.columns(part).mean(axis=1)[rows] for part in asked.parts_of("target", chosen)], axis=1)
        for number, group in enumerate(groups > 0):
            result[chosen, number] = _correlate(x[group], y[group])
    return result


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (values.astype(np.float64) - values.mean(axis=0, dtype=np.float64) for values in (x, y))
    size = np.sqrt((x @ x) * (y**2).sum(axis=0))
    return np.divide(x @ y, size, out=np.full(y.shape[1], np.nan), where=size > 1e-12)


def standings(
    plain: Counterfactual,
    asked: Pairs,
    levels: Levels,
    groups: np.ndarray,
    deviation: np.ndarray,
    pool: ControlPool,
) -> dict[str, np.ndarray]:
    """Return the columns that compare each pair with its controls, each (pairs, groups)."""
    effects = ControlEffects(plain, levels, groups, deviation, pool, asked)
    shape = (len(asked.table), len(groups))
    percentile, p = np.full(shape, np.nan), np.full(shape, np.nan)
    for pair in range(shape[0]):
        for group, grid in enumerate(effects.of(pair)):
            percentile[pair, group], p[pair, group] = standing(grid)
    return {"control_percentile": percentile, "p": p}


def effect_table(
    asked: Pairs, names: list[Any], groupby: str | None, columns: dict[str, np.ndarray], n_spots: np.ndarray
) -> pd.DataFrame:
    """Lay out columns of (pairs, groups) as one row a pair and group."""
    n_pairs, n_groups = len(asked.table), len(names)
    table = asked.table.loc[asked.table.index.repeat(n_groups)].reset_index(drop=True)
    if groupby is not None:
        table["group"] = pd.Categorical(names * n_pairs, categories=names)
    for name in _COLUMNS:
        table[name] = columns[name].ravel() if name in columns else np.nan
    table["q"] = q_values(table["p"].to_numpy())
    table["n_spots"] = np.tile(n_spots, n_pairs)
    return table
