"""Colours, visible on white and on black, and what plots share."""

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap

from sagefm._errors import MissingKeyError

BLUE, VERMILION, NEUTRAL = "#0072B2", "#D55E00", "0.5"  # Okabe and Ito (2008)
# Viridis without its ends: the dark end vanishes on black, the bright end on white.
SEQUENTIAL = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.2, 0.9, 256)))
# Through a middle grey that is visible on white and on black.
DIVERGING = LinearSegmentedColormap.from_list("sagefm_diverging", [BLUE, "#999999", VERMILION])
PANEL = 4.2  # inches


def new_axes() -> Axes:
    """Return the axes of a new figure."""
    return plt.subplots(figsize=(1.2 * PANEL, PANEL), layout="constrained")[1]


def scatter(ax: Axes, x: Any, y: Any, color: pd.Series, label: str, **kwargs: Any) -> None:
    """Draw dots whose colour shows a number, with a colour bar."""
    dots = ax.scatter(x, y, c=color, linewidths=0, **kwargs)
    ax.figure.colorbar(dots, ax=ax, label=label, fraction=0.046, pad=0.03)


def require_columns(table: pd.DataFrame, columns: Iterable[str], source: str) -> None:
    """Raise unless the table, which `source` returns, has all columns."""
    if missing := [column for column in columns if column not in table]:
        raise MissingKeyError(f"The table has no column {missing[0]!r}, only {list(table)}; pass one from `{source}`.")
