"""The levels that a perturbed gene is set to, and what they mean on the log scale."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scvi import settings

_SCALES = ("value", "fold_change", "percentile")


@dataclass(frozen=True)
class Levels:
    """Levels of a gene: `scale` says what the `values` are.

    `"range"`: shares of the way from the gene's minimum to its maximum; `"value"`: log scale; `"fold_change"`: factors
    on the counts that each spot has; `"percentile"`: percentiles of the gene over the section.
    """

    scale: str
    values: np.ndarray

    @classmethod
    def of(cls, levels: int | Sequence[float] | Mapping[str, Sequence[float]]) -> Levels:
        """Read what a user gave as `levels`, or say what is wrong with it."""
        if isinstance(levels, Integral):
            if levels < 2:
                raise ValueError(f"levels={levels}: an effect is a difference, so at least 2 levels are needed.")
            return cls("range", np.linspace(0, 1, int(levels)))
        scale, given = "value", levels
        if isinstance(levels, Mapping):
            if len(levels) != 1 or next(iter(levels)) not in _SCALES:
                raise ValueError(f"`levels` as a dict has one key of {', '.join(_SCALES)}; found {list(levels)}.")
            scale, given = next(iter(levels.items()))
        return cls(scale, _checked(given, scale))

    @property
    def ends(self) -> Levels:
        """The first and the last level alone."""
        return Levels(self.scale, self.values[[0, -1]])

    def on_log_scale(self, measured: np.ndarray) -> np.ndarray:
        """Return the value of every spot at every level, (spots, levels), given the `measured` ones, (spots,)."""
        if self.scale == "fold_change":
            return np.log1p(np.expm1(measured)[:, None] * self.values)
        low, high = measured.min(), measured.max()
        constants = {
            "range": lambda: low + (high - low) * self.values,
            "value": lambda: self.values,
            "percentile": lambda: np.percentile(measured, self.values),
        }[self.scale]()
        return np.broadcast_to(constants, (len(measured), len(self.values)))

    def warn_of_extrapolation(self, highest: np.ndarray, genes: Sequence[str]) -> None:
        """Warn where a level lies beyond all that was measured of a gene, its `highest` value."""
        beyond: np.ndarray = np.flatnonzero(self.values.max() > highest) if self.scale == "value" else np.empty(0)
        if len(beyond):
            warnings.warn(
                f"Level {self.values.max():g} is above the highest value of {len(beyond)} of {len(highest)} sources, "
                f"for example {genes[beyond[0]]!r} ({highest[beyond[0]]:.3g}): the model extrapolates there.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )


def _checked(given: object, scale: str) -> np.ndarray:
    try:
        values = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"`levels` is a number of levels, a list of values or a dict of one list; found {given!r}.")
    highest = 100 if scale == "percentile" else np.inf
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > highest:
        raise ValueError(f"levels must be finite and between 0 and {highest:g} as {scale}; found {values.tolist()}.")
    if values[0] == values[-1]:
        raise ValueError(
            f"levels {values.tolist()} begin and end alike; an effect is the difference of the last and the first."
        )
    return values
