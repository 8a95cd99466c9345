"""Effects of a source on a signed set of targets, compared with matched genes and with matched random sources."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata

from sagefm.model.perturbation._counterfactual import Counterfactual, Readout
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._target_sets import TargetSet

N_LEADING = 5  # targets that are named


@dataclass(frozen=True)
class SetScores:
    """How the targets of a source respond, compared with matched genes, each (...) for effects (..., genes).

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
    def of(cls, effects: np.ndarray, targets: TargetSet) -> "SetScores":
        """Score scaled effects on `targets.genes`, (..., genes)."""
        expected, n = effects * targets.all_signs, len(targets.targets)
        own, others = expected[..., :n], expected[..., n:]
        ranks = rankdata(expected, axis=-1)[..., :n].sum(axis=-1)
        auroc = (ranks - n * (n + 1) / 2) / (n * others.shape[-1])
        right = ((values > 0).mean(axis=-1) for values in (own, others))
        return cls(own.mean(axis=-1), others.mean(axis=-1), auroc, *right)


def masked_effects(
    counterfactual: Counterfactual, source: np.ndarray, genes: np.ndarray, levels: Levels, groups: np.ndarray
) -> np.ndarray:
    """Return the mean effect of a source on each of `genes`, masked in the spot it is read in, (groups, genes)."""
    ascending, places = np.unique(genes, return_inverse=True)
    total = torch.zeros((), dtype=torch.float64)
    for piece, predicted in counterfactual.responses(source, levels.ends, Readout(ascending)):
        share = torch.from_numpy(groups[:, piece]).to(predicted)
        total = total + (share @ (predicted[1] - predicted[0])).cpu().double()
    return total.numpy()[:, places]


def empirical_p(found: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return the one-sided empirical p-value of scores, (groups,), among those of random sources, (controls, groups)."""
    return (1 + (controls >= found).sum(axis=0)) / (1 + len(controls))
