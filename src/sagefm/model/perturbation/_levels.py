"""The levels that a perturbed gene is set to, and their values on the log scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import numpy as np

LevelsLike = int | Sequence[float] | Mapping[str, Sequence[float]]
_SCALES = ("value", "fold_change", "percentile")


@dataclass(frozen=True)
class Levels:
    """Levels of a gene; `scale` gives the meaning of `values`.

    `"range"`: fractions of the way from the gene's minimum to its maximum; `"value"`: log scale; `"fold_change"`:
    factors on the counts of each spot; `"percentile"`: percentiles of the gene over the section.
    """

    scale: str
    values: np.ndarray

    @classmethod
    def parse(cls, levels: LevelsLike) -> Self:
        """Validate the argument `levels`."""
        if isinstance(levels, Integral):
            if levels < 2:
                raise ValueError(f"levels={levels}: an effect is a difference, so at least 2 levels are needed.")
            return cls("range", np.linspace(0, 1, int(levels)))
        by_scale = levels if isinstance(levels, Mapping) else {"value": levels}
        if len(by_scale) != 1 or not set(by_scale) <= set(_SCALES):
            raise ValueError(f"`levels` as a dict has one key, one of {', '.join(_SCALES)}; found {list(by_scale)}.")
        ((scale, values),) = by_scale.items()
        return cls(scale, _checked(values, scale))

    @property
    def ends(self) -> Self:
        """The first and the last level."""
        return type(self)(self.scale, self.values[[0, -1]])

    def on_log_scale(self, measured: np.ndarray) -> np.ndarray:
        """Return the value of every spot at every level, (spots, levels), from the `measured` values, (spots,)."""
        if self.scale == "fold_change":
            return np.log1p(np.expm1(measured)[:, None] * self.values)
        values = self.values
        if self.scale == "range":
            values = measured.min() + np.ptp(measured) * values
        elif self.scale == "percentile":
            values = np.percentile(measured, values)
        return np.broadcast_to(values, (len(measured), len(values)))

    def excess(self, measured: np.ndarray) -> str:
        """Return how the highest level exceeds the values measured of a gene, (spots, parts), or "" if it does not.

        A fold change does if it sets most spots that express the gene above the highest value.
        """
        top = self.values.max()
        if self.scale == "value" and top > (highest := measured.max(axis=0).min()):
            return f"{highest:.3g}"
        if self.scale == "fold_change":
            counts = np.expm1(measured)
            above = ((counts > 0) & (counts * top > counts.max(axis=0))).sum(axis=0)
            share = (above / np.maximum((counts > 0).sum(axis=0), 1)).max()
            return f"in {share:.0%} of the spots that express it" if share > 0.5 else ""
        return ""


def _checked(levels: object, scale: str) -> np.ndarray:
    try:
        values = np.asarray(levels, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"`levels` must be a number of levels, a list, or a dict with one list; found {levels!r}.")
    highest = 100 if scale == "percentile" else np.inf
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > highest:
        raise ValueError(f"levels must be finite and between 0 and {highest:g} as {scale}; found {values.tolist()}.")
    if values[0] == values[-1]:
        raise ValueError(f"levels {values.tolist()} have equal ends; an effect is the last minus the first.")
    return values
