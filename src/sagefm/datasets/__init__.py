"""Data to try things on: a simulated tissue whose truth is known, and the corpus of the paper."""

from sagefm.datasets._hest import hest
from sagefm.datasets._simulated import simulated_tissue

__all__ = ["hest", "simulated_tissue"]
