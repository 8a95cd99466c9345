"""Plots of how a model trained and of what it recovers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from sagefm.model import SAGEFM
from sagefm.pl._style import BLUE, NEUTRAL, SEQUENTIAL, VERMILION, new_axes, require_columns, scatter


def recovery(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Plot the recovery of each gene against that by the mean of the neighbours.

    Genes above the diagonal are predicted better by the model than by the mean of their neighbours.

    Parameters
    ----------
    table
        Result of :meth:`sagefm.SAGEFM.get_masked_recovery`. The title shows the totals in its `attrs`, if there are
        any.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    KeyError
        If the table lacks a column.

    Examples
    --------
    >>> import pandas as pd
    >>> import sagefm
    >>> columns = {"r": [0.4, 0.6], "r_neighbors": [0.1, 0.5], "mean_expression": [0.2, 1.5]}
    >>> ax = sagefm.pl.recovery(pd.DataFrame(columns, index=["CD3E", "MBP"]))
    >>> ax.get_ylabel()
    'r of the model'
    """
    require_columns(table, ["r", "r_neighbors", "mean_expression"], "SAGEFM.get_masked_recovery")
    ax = new_axes() if ax is None else ax
    drawn = table.dropna(subset=["r", "r_neighbors"]).query("mean_expression > 0").sort_values("mean_expression")
    size = float(np.clip(20_000 / max(len(drawn), 1), 4, 25))
    options = {"s": size, "cmap": SEQUENTIAL, "norm": LogNorm(), "rasterized": True}
    scatter(ax, drawn["r_neighbors"], drawn["r"], drawn["mean_expression"], "mean expression (log1p)", **options)
    ax.axline((0, 0), slope=1, color=NEUTRAL, linewidth=1)
    ax.set(aspect="equal", xlabel="r of the mean of the neighbours", ylabel="r of the model", title=_totals(table))
    return ax


def _totals(table: pd.DataFrame) -> str:
    totals = table.attrs
    if "top500_r" not in totals:  # pandas drops attrs in many operations, and files do not contain them
        return ""
    return (
        f"mean r of the {min(500, totals['n_genes'])} most expressed genes\n"
        f"model {totals['top500_r']:.2f}, neighbours {totals['top500_r_neighbors']:.2f}"
    )


def history(model: SAGEFM, *, ax: Axes | None = None) -> Axes:
    """Plot the training and the validation loss by epoch.

    Parameters
    ----------
    model
        A trained model.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    RuntimeError
        If the model is untrained.

    Examples
    --------
    >>> ax = sagefm.pl.history(model)
    >>> [line.get_label() for line in ax.lines]
    ['training', 'validation']
    """
    if not model.history:
        raise RuntimeError("The model is untrained and has no history. Call `model.train()` first.")
    ax = new_axes() if ax is None else ax
    for key, label, color in (("train_loss", "training", BLUE), ("validation_loss", "validation", VERMILION)):
        if key in model.history:
            loss = model.history[key].iloc[:, 0].astype(float)
            ax.plot(loss.index + 1, loss, label=label, color=color, marker="o" if len(loss) == 1 else None)
    ax.set(xlabel="epoch", ylabel="loss on masked genes")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax
