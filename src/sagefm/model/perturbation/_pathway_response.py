"""Effects of a source on a signed set of targets, compared with matched genes and with matched random sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from sagefm.model._statistics import q_values
from sagefm.model.perturbation._counterfactual import Counterfactual, Readout
from sagefm.model.perturbation._effects import can_move
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._target_sets import SectionGenes, TargetSet

# Averages over some of the spots are enough: targets differ far more than spots do.
_MAX_SPOTS, _MIN_SPOTS_PER_GROUP = 512, 64
_N_LEADING = 5  # targets that are named
_ORDER = (
    "source",
    "group",
    "n_targets",
    "effect",
    "control_effect",
    "auroc",
    "sign_agreement",
    "control_sign_agreement",
    "p",
    "q",
    "leading_targets",
    "n_spots",
    "reason",
)


@dataclass(frozen=True)
class SetScores:
    """Response of targets compared with matched genes, each of shape (...) for effects (..., genes).

    Parameters
    ----------
    effect, control_effect
        Mean over the targets, and over their matched genes, of the scaled effect times the expected sign.
    auroc
        Area under the ROC curve of the scaled effect times the expected sign, for targets among matched genes.
    sign_agreement, control_sign_agreement
        Share of the targets, and of their matched genes, whose effect has the expected sign.
    """

    effect: np.ndarray
    control_effect: np.ndarray
    auroc: np.ndarray
    sign_agreement: np.ndarray
    control_sign_agreement: np.ndarray

    @classmethod
    def of(cls, effects: np.ndarray, targets: TargetSet) -> Self:
        """Score scaled effects on the genes of a set, (..., genes)."""
        expected, n = effects * targets.all_signs, len(targets.targets)
        own, others = expected[..., :n], expected[..., n:]
        ranks = rankdata(expected, axis=-1)[..., :n].sum(axis=-1)
        auroc = (ranks - n * (n + 1) / 2) / (n * others.shape[-1])
        right = ((values > 0).mean(axis=-1) for values in (own, others))
        return cls(own.mean(axis=-1), others.mean(axis=-1), auroc, *right)


@dataclass(frozen=True)
class SetScreen:
    """Sets of targets that are evaluated over groups of spots.

    Parameters
    ----------
    counterfactual
        Predictions for the spots.
    section
        The model's genes in the section.
    levels
        Levels of the regulators; effects are differences between the last and the first.
    groups
        Weight of each row in each group, (groups, rows).
    """

    counterfactual: Counterfactual
    section: SectionGenes
    levels: Levels
    groups: np.ndarray

    def table(
        self,
        sets: Mapping[str, TargetSet],
        random_sources: Mapping[str, np.ndarray],
        reasons: Mapping[str, str],
        names: list[Any],
        groupby: str | None,
    ) -> pd.DataFrame:
        """Return one row per source and group, those with a result first; `names` are those of the groups."""
        labels = {"group": pd.Categorical(names, categories=names), "n_spots": (self.groups > 0).sum(axis=1)}
        columns = {source: self._columns(targets, random_sources[source]) for source, targets in sets.items()}
        columns |= {source: {"reason": reason} for source, reason in reasons.items()}
        parts = [pd.DataFrame(labels | of_source | {"source": source}) for source, of_source in columns.items()]
        table = pd.concat(parts, ignore_index=True).reindex(columns=_ORDER)
        table = table.fillna({"leading_targets": "", "n_targets": 0}).astype({"n_targets": int})
        table["q"] = q_values(table["p"].to_numpy())
        return table if groupby is not None else table.drop(columns="group")

    def _columns(self, targets: TargetSet, random_sources: np.ndarray) -> dict[str, Any]:
        """Return the columns of one set, each (groups,); `random_sources` is (sources, regulators)."""
        if not can_move(self.counterfactual.dose(targets.regulators, self.levels)):
            return {"reason": "the levels of its regulator do not differ"}
        effects = masked_effects(self.counterfactual, targets.regulators, targets.genes, self.levels, self.groups)
        effects = effects / self.section.deviation[targets.genes]
        columns = vars(SetScores.of(effects, targets)) | {"leading_targets": self._leading(effects, targets)}
        p = self._p(targets, random_sources) if len(random_sources) else np.nan
        return columns | {"n_targets": len(targets.targets), "p": p, "reason": ""}

    def _p(self, targets: TargetSet, random_sources: np.ndarray) -> np.ndarray:
        """Return the one-sided empirical p-value of the AUROC among those of random sources, (groups,)."""
        effects = [
            self.counterfactual.mean_changes(source, self.levels, targets.genes, self.groups)
            for source in (targets.regulators, *random_sources)
        ]
        auroc = SetScores.of(np.stack(effects) / self.section.deviation[targets.genes], targets).auroc
        return (auroc >= auroc[0]).mean(axis=0)

    def _leading(self, effects: np.ndarray, targets: TargetSet) -> np.ndarray:
        """Return the names of the targets with the largest effects of the expected sign, (groups,)."""
        expected = effects[:, : len(targets.targets)] * targets.signs
        genes = self.section.names[targets.targets]
        order = np.argsort(-expected, axis=1, kind="stable")[:, :_N_LEADING]
        return np.array(
            [", ".join(genes[row[values[row] > 0]]) for row, values in zip(order, expected, strict=True)], dtype=object
        )


def masked_effects(
    counterfactual: Counterfactual, source: np.ndarray, genes: np.ndarray, levels: Levels, groups: np.ndarray
) -> np.ndarray:
    """Return the mean effect of a source on each of `genes`, masked in the spot that is predicted, (groups, genes)."""
    ascending, places = np.unique(genes, return_inverse=True)
    total = torch.zeros((), dtype=torch.float64)
    for piece, predicted in counterfactual.responses(source, levels.ends, Readout(ascending)):
        share = torch.from_numpy(groups[:, piece]).to(predicted)
        total = total + (share @ (predicted[1] - predicted[0])).cpu().double()
    return total.numpy()[:, places]


def sampled_spots(groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of random spots of each group, ascending; `groups` is (groups, rows)."""
    rng, size = np.random.default_rng(seed), max(_MAX_SPOTS // len(groups), _MIN_SPOTS_PER_GROUP)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(group))[:size] for group in groups]))
