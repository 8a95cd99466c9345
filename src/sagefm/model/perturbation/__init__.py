"""In-silico perturbation: pairs, levels, counterfactual predictions, matched controls, effects."""

from sagefm.model.perturbation._controls import ControlPool, compare_with_controls
from sagefm.model.perturbation._counterfactual import Counterfactual, Readout, Where
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._mixin import PerturbationMixin
from sagefm.model.perturbation._pairs import ROLES, split
from sagefm.model.perturbation._pathway_response import SetScores, masked_effects, sampled_spots
from sagefm.model.perturbation._target_sets import (
    MIN_TARGETS,
    SectionGenes,
    TargetSet,
    matched_genes,
    random_sources,
    read_net,
    regulators_of,
    target_set,
)
