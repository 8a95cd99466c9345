"""Plots of in-silico perturbations and of the genes that predictions depend on."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm

from sagefm._errors import MissingKeyError
from sagefm.pl._maps import domains
from sagefm.pl._style import BLUE, DIVERGING, VERMILION, new_axes, require_columns, scatter

_LARGEST_DOT = 180.0  # points squared
_SIDES = {"center_size": "in the spot", "neighbors_size": "in its neighbours"}


def perturbation_dots(table: pd.DataFrame, *, n_pairs: int = 20, ax: Axes | None = None) -> Axes:
    """Plot pairs as dots: one row per pair, one column per group; colour shows the effect, size the evidence.

    Parameters
    ----------
    table
        Result of :meth:`sagefm.SAGEFM.perturb` or :func:`sagefm.tl.ligand_receptor_screen`.
    n_pairs
        Number of pairs drawn: those with the smallest p in any group, or with the largest effect if there is no p.
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
    >>> table = pd.DataFrame({"source": ["A", "B"], "target": "C", "scaled_effect": [0.1, -0.2], "p": [0.01, 0.2]})
    >>> ax = sagefm.pl.perturbation_dots(table)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['A → C', 'B → C']
    """
    require_columns(table, ["source", "target", "scaled_effect", "p"], "SAGEFM.perturb")
    drawn = table.dropna(subset=["scaled_effect"]).fillna({"p": 1})
    drawn["pair"] = drawn["source"].astype(str) + " → " + drawn["target"].astype(str)
    drawn["group"] = drawn["group"].astype(str) if "group" in drawn else "all spots"
    order = drawn["p"] - 1e-9 * drawn["scaled_effect"].abs().rank()  # of equal p, the largest effect first
    pairs = order.groupby(drawn["pair"]).min().nsmallest(n_pairs).index
    groups = pd.Index(drawn["group"].unique())
    drawn = drawn[drawn["pair"].isin(pairs)]
    evidence = -np.log10(drawn["p"].clip(lower=1e-300))
    size = 15 + _LARGEST_DOT * evidence / max(evidence.max(), 1e-9)
    x, y = groups.get_indexer(pd.Index(drawn["group"])), pairs.get_indexer(pd.Index(drawn["pair"]))
    ax = new_axes() if ax is None else ax
    scatter(ax, x, y, drawn["scaled_effect"], "effect (sd of the target)", s=size, cmap=DIVERGING, norm=CenteredNorm())
    ax.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 3 else 0)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(pairs) - 0.5, -0.5), title="size: -log10 p")
    return ax


def dose_response(response: pd.DataFrame, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot the mean predicted target against the level of the source, with the interquartile range over spots.

    Parameters
    ----------
    response
        Result of :meth:`sagefm.SAGEFM.get_dose_response`. Pass a subset of its rows to draw only these spots.
    label
        Name of the curve in the legend; without one there is no legend.
    ax
        Axes to draw on; pass those of an earlier call to add a curve. New ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import pandas as pd
    >>> import sagefm
    >>> response = pd.DataFrame([[0.1, 0.2], [0.2, 0.5]], columns=pd.Index([0.0, 1.5], name="LIG1"))
    >>> sagefm.pl.dose_response(response).get_xlabel()
    'LIG1 (log1p)'
    """
    ax = new_axes() if ax is None else ax
    levels = response.columns.to_numpy(dtype=float)
    quartiles = response.quantile([0.25, 0.75]).to_numpy()
    (line,) = ax.plot(levels, response.mean(), marker="o", label=label, color=None if ax.lines else BLUE)
    ax.fill_between(levels, *quartiles, color=line.get_color(), alpha=0.25, linewidth=0)
    ax.set(xlabel=f"{response.columns.name or 'source'} (log1p)", ylabel="predicted target (log1p)")
    if label is not None:
        ax.legend(frameon=False)
    return ax


def effect_map(adata: AnnData, response: pd.DataFrame, *, label: str = "effect (log1p)", **kwargs: Any) -> np.ndarray:
    """Map on the tissue by how much a perturbation changes the predicted target.

    Parameters
    ----------
    adata
        Spots with coordinates.
    response
        Result of :meth:`sagefm.SAGEFM.get_dose_response` for all or some of these spots. The effect is its last column
        minus its first.
    label
        Title of the panels.
    **kwargs
        Arguments of :func:`sagefm.pl.domains`: `sample_key`, `spatial_key`, `axes`.

    Returns
    -------
    numpy.ndarray
        :class:`matplotlib.axes.Axes`, (sections, 1).

    Raises
    ------
    KeyError
        If no spot of `response` with an effect is in `adata`.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    >>> response = pd.DataFrame(np.random.default_rng(0).random((adata.n_obs, 2)), index=adata.obs_names)
    >>> sagefm.pl.effect_map(adata, response).shape
    (1, 1)
    """
    effect = (response.iloc[:, -1] - response.iloc[:, 0]).reindex(adata.obs_names)
    if effect.isna().all():
        raise MissingKeyError(
            "No spot of `response` with an effect is in `adata`; pass the AnnData it was computed for."
        )
    return domains(AnnData(obs=adata.obs.assign(**{label: effect}), obsm=dict(adata.obsm)), label, **kwargs)


def influence_bars(
    table: pd.DataFrame, target: str | None = None, *, group: Any = None, n_genes: int = 15, ax: Axes | None = None
) -> Axes:
    """Plot the genes that a prediction depends on most, in the spot and in its neighbours.

    Parameters
    ----------
    table
        Result of :meth:`sagefm.SAGEFM.get_gene_influence`.
    target
        Target gene; the first in the table by default.
    group
        Group of spots, if the table has groups; the first in the table by default.
    n_genes
        Number of genes drawn.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    KeyError
        If the table lacks a column, the target or the group.

    Examples
    --------
    >>> import pandas as pd
    >>> import sagefm
    >>> table = pd.DataFrame({"target": "T", "gene": ["A", "B"], "center_size": [0.2, 0.1], "neighbors_size": [0.3, 0]})
    >>> sagefm.pl.influence_bars(table).get_title()
    'T'
    """
    require_columns(table, ["target", "gene", *_SIDES], "SAGEFM.get_gene_influence")
    chosen = {"target": target} | ({"group": group} if "group" in table else {})
    for column, value in chosen.items():
        present = list(dict.fromkeys(table[column]))
        chosen[column] = value = present[0] if value is None else value
        if value not in present:
            raise MissingKeyError(f"The table has no {column} {value!r}; it has {present}.")
        table = table[table[column] == value]
    largest = table[list(_SIDES)].max(axis=1).nlargest(n_genes).index
    sizes = table.loc[largest].set_index("gene")[list(_SIDES)].rename(columns=_SIDES)
    ax = new_axes() if ax is None else ax
    sizes.plot(kind="barh", ax=ax, color=[BLUE, VERMILION], width=0.8, legend=False)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))  # outside, as all bars may be long
    ax.set(xlabel="mean size of the attribution (log1p)", ylabel="", title=", ".join(map(str, chosen.values())))
    return ax
