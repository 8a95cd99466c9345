"""Plots of what the model recovers, how it trained, its domains, perturbations, and of two embeddings compared."""

from sagefm.pl._embeddings import compare_embeddings
from sagefm.pl._model import domains, history, recovery
from sagefm.pl._perturbation import dose_response, effect_map, influence_bars, perturbation_dots

__all__ = [
    "compare_embeddings",
    "domains",
    "dose_response",
    "effect_map",
    "history",
    "influence_bars",
    "perturbation_dots",
    "recovery",
]
