"""Example data: a simulated tissue with known ground truth, and the corpus of the SAGE-FM paper."""

from sagefm.datasets._hest import hest
from sagefm.datasets._simulated import simulated_tissue

__all__ = ["hest", "simulated_tissue"]
