"""The model class SAGEFM and the mixins that it is composed of."""

from sagefm.model._base import require_training
from sagefm.model._imputation import ModelMask
from sagefm.model._recovery import random_masks, section_moments
from sagefm.model._recovery_table import TOP, Moments, recovery_table
from sagefm.model._sagefm import SAGEFM
from sagefm.model._statistics import fisher_average
