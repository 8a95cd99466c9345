"""Plots of what the model recovers, how it trained, and where its domains lie."""

from sagefm.pl._plots import domains, history, recovery

__all__ = ["domains", "history", "recovery"]
