"""In-silico perturbation: pairs, levels, counterfactual predictions, matched controls, effects."""

from sagefm.model.perturbation._controls import ControlPool, standing
from sagefm.model.perturbation._counterfactual import Counterfactual, Expression, Readout
from sagefm.model.perturbation._levels import Levels
from sagefm.model.perturbation._mixin import PerturbationMixin
from sagefm.model.perturbation._pairs import ROLES, shares_a_gene, split
