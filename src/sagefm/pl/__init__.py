"""Plots of recovery, training, domains, perturbations and embeddings."""

from sagefm.pl._confusion import confusion
from sagefm.pl._embeddings import compare_embeddings
from sagefm.pl._maps import domains
from sagefm.pl._model import history, recovery
from sagefm.pl._perturbation import dose_response, effect_map, influence_bars, perturbation_dots
from sagefm.pl._recovered import recovered
from sagefm.pl._spatial_scale import stability, variograms

__all__ = [
    "compare_embeddings",
    "confusion",
    "domains",
    "dose_response",
    "effect_map",
    "history",
    "influence_bars",
    "perturbation_dots",
    "recovered",
    "recovery",
    "stability",
    "variograms",
]
