"""The files that define splits, seeds and methods."""

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text())


PROTOCOL = _read("protocol.toml")
METHODS = _read("methods.toml")


OF_PREDICTIONS = ("recovery", "missing_genes")
BASELINES = ("neighbors", "regression", "section_regression")
# The order matters: the published network is trained for as long as sagefm took.
MODELS = ("sagefm", "published", "published_converged", "sagefm_pretrained", "sagefm_finetuned")


def methods_of(task: str) -> list[str]:
    """Return the names of what a task measures: methods, models and baselines, or variants of the network."""
    if task == "ablations":
        return list(PROTOCOL[task]["variants"])
    if task in OF_PREDICTIONS:
        return [*BASELINES, *MODELS]
    return [name for name, entry in METHODS.items() if task in entry.get("tasks", [task])]
