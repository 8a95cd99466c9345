"""SAGE-FM, a light foundation model for spatial transcriptomics, in the scverse."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagefm import datasets, pl, pretraining, tl
    from sagefm.model import SAGEFM

__all__ = ["SAGEFM", "datasets", "pl", "pretraining", "tl"]
__version__ = version("sagefm")


def __getattr__(name: str) -> Any:
    """Import on first use: scvi-tools and torch alone take seconds."""
    if name == "SAGEFM":
        return import_module("sagefm.model").SAGEFM
    if name in __all__:
        return import_module(f"sagefm.{name}")
    raise AttributeError(f"module 'sagefm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
