"""The model class SAGEFM and the mixins that it is composed of."""

from sagefm.model._base import require_training
from sagefm.model._effective_size import Autocorrelation, LagPairs, effective_size
from sagefm.model._imputation import ModelMask
from sagefm.model._noise_ceiling import noise_ceiling
from sagefm.model._recovery import random_masks, section_scores
from sagefm.model._recovery_table import TOP, Moments, SectionScores, recovery_table, recovery_totals
from sagefm.model._sagefm import SAGEFM
from sagefm.model._statistics import combined_p, fisher_average, q_values
from sagefm.model._training_record import make_record
