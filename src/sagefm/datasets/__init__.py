"""Data to try things on: a simulated tissue whose truth is known."""

from sagefm.datasets._simulated import simulated_tissue

__all__ = ["simulated_tissue"]
