"""Effects of sources on targets, averaged over groups of spots."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sagefm.model._statistics import q_values
from sagefm.model.perturbation._counterfactual import Counterfactual, Readout
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._pairs import Pairs

_EFFECTS = ("effect", "spread", "scaled_effect", "slope", "reverse_effect", "scaled_reverse_effect")
_COLUMNS = (*_EFFECTS, "neighbor_correlation", "control_percentile", "p")


class Summary(NamedTuple):
    """Predictions averaged over groups of spots.

    `response` (levels, targets, groups) holds means of the prediction; `effect` and `spread`, each (targets, groups),
    mean and standard deviation over the spots of the difference between the last and the first level.
    """

    response: np.ndarray
    effect: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Screen:
    """Pairs that are evaluated over groups of spots.

    Parameters
    ----------
    counterfactual
        Predictions for the spots.
    pairs
        Requested pairs.
    levels
        Levels of the sources.
    groups
        Share of each row in each group, (groups, rows).
    deviation
        Standard deviation of every gene, (genes,), NaN for a gene that does not vary.
    """

    counterfactual: Counterfactual
    pairs: Pairs
    levels: Levels
    groups: np.ndarray
    deviation: np.ndarray

    def summarize(self, source: np.ndarray, levels: Levels, readout: Readout) -> Summary:
        """Average the predictions over each group; `source` holds the positions of the parts of the perturbed gene."""
        total = torch.zeros((), dtype=torch.float64)
        for piece, predicted in self.counterfactual.responses(source, levels, readout):
            change = predicted[-1:] - predicted[:1]
            share = torch.from_numpy(self.groups[:, piece]).to(predicted)
            total = total + (share @ torch.cat([predicted, change, change.square()])).cpu().double()
        *response, effect, squares = total.numpy().swapaxes(1, 2)
        n = (self.groups > 0).sum(axis=1)
        variance = np.maximum(squares - effect**2, 0) * n / np.where(n > 1, n - 1, np.nan)
        return Summary(np.stack(response), effect, np.sqrt(variance))

    def mean_effects(self, source: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Return the effect of a source on genes, averaged over each group, (genes, groups)."""
        total = torch.zeros((), dtype=torch.float64)
        for piece, predicted in self.counterfactual.responses(source, self.levels.ends, Readout(genes)):
            share = torch.from_numpy(self.groups[:, piece]).to(predicted)
            total = total + (share @ (predicted[1] - predicted[0])).cpu().double()
        return total.numpy().T

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of the table, each (pairs, groups); NaN for a source without a range and for controls."""
        columns = {name: np.full((len(self.pairs.table), len(self.groups)), np.nan) for name in _COLUMNS}
        columns["n_controls"] = np.zeros((len(self.pairs.table), len(self.groups)), dtype=int)
        for source, rows in self.pairs.by("source").items():
            parts, targets = self.pairs.parts[source], self.pairs.parts_of("target", rows)
            columns["neighbor_correlation"][rows] = self._neighbor_correlations(parts, targets)
            dose = self.counterfactual.dose(parts, self.levels)
            if can_move(dose):
                response, effect, spread = self.summarize(parts, self.levels, Readout.of_targets(targets))
                columns["effect"][rows], columns["spread"][rows] = effect, spread
                slope = np.polyfit(dose, response.reshape(len(dose), -1), 1)[0]
                columns["slope"][rows] = slope.reshape(effect.shape)
        for target, rows in self.pairs.by("target").items():
            parts, sources = self.pairs.parts[target], self.pairs.parts_of("source", rows)
            if can_move(self.counterfactual.dose(parts, self.levels)):
                reverse = self.summarize(parts, self.levels.ends, Readout.of_targets(sources))
                columns["reverse_effect"][rows] = reverse.effect
        for name, role in (("effect", "target"), ("reverse_effect", "source")):
            unit = [self.deviation[parts].mean() for parts in self.pairs.parts_of(role)]
            columns[f"scaled_{name}"] = columns[name] / np.array(unit)[:, None]
        return columns

    def _neighbor_correlations(self, source: np.ndarray, targets: list[np.ndarray]) -> np.ndarray:
        """Correlate each target in the spots with the mean of a source over their neighbours, (targets, groups)."""
        expression, rows = self.counterfactual.expression, self.counterfactual.rows
        measured = expression(source).mean(axis=1)
        x = measured[rows] if self.counterfactual.where == "self" else self.counterfactual.mean_operator @ measured
        y = np.stack([expression(parts)[rows].mean(axis=1) for parts in targets], axis=1)
        return np.stack([_correlate(x[group], y[group]) for group in self.groups > 0], axis=1)

    def table(self, columns: dict[str, np.ndarray], names: list[Any], groupby: str | None) -> pd.DataFrame:
        """Arrange columns of (pairs, groups) as one row per pair and group."""
        groups = pd.DataFrame({"group": pd.Categorical(names, categories=names)})
        table = self.pairs.table.merge(groups, how="cross")
        table = table.assign(**{name: values.ravel() for name, values in columns.items()})
        table["q"] = q_values(table["p"].to_numpy())
        table["n_spots"] = np.tile((self.groups > 0).sum(axis=1), len(self.pairs.table))
        return table if groupby is not None else table.drop(columns="group")


def can_move(dose: np.ndarray) -> bool:
    """Return whether the first and the last level of a source differ; False for NaN."""
    return bool(abs(dose[-1] - dose[0]) > 0)


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of `x` (n,) with `y` (n, ...) over the first axis; NaN if either is constant."""
    x, y = (values.astype(np.float64) - values.mean(axis=0, dtype=np.float64) for values in (x, y))
    size = np.sqrt((x @ x) * (y**2).sum(axis=0))
    return np.divide(np.tensordot(x, y, axes=1), size, out=np.full_like(size, np.nan), where=size > 1e-12)
