"""Plots of what the model recovers, how it trained, where its domains lie, and what perturbations do."""

from sagefm.pl._perturbation import dose_response, effect_map, influence_bars, perturbation_dots
from sagefm.pl._plots import domains, history, recovery

__all__ = [
    "domains",
    "dose_response",
    "effect_map",
    "history",
    "influence_bars",
    "perturbation_dots",
    "recovery",
]
