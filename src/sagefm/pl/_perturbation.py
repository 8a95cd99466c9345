"""Plots of in-silico perturbations and of the genes that predictions depend on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.ticker import MaxNLocator

from sagefm._errors import MissingKeyError
from sagefm.pl._maps import draw_maps
from sagefm.pl._style import BLUE, DIVERGING, NEUTRAL, VERMILION, new_axes, require_columns, scatter

_SMALLEST_DOT, _LARGEST_DOT = 15.0, 195.0  # points squared, of q = 1 and of the smallest q that is distinguished
_LARGEST_EVIDENCE = 3.0  # -log10 of that q
_SIGNIFICANT = 0.05  # q below which pairs are counted
_SIDES = {"center_size": "in the spot", "neighbors_size": "in its neighbours"}


def perturbation_dots(table: pd.DataFrame, *, n_pairs: int = 20, ax: Axes | None = None) -> Axes:
    """Plot pairs as dots: one row per pair, one column per group; colour shows the effect, size the q-value.

    Pairs are ordered by their p-value, those of equal p by the size of their effect. The title says how many pairs of
    the table have q < 0.05 in any group.

    Parameters
    ----------
    table
        Result of :meth:`sagefm.SAGEFM.perturb` or :func:`sagefm.tl.ligand_receptor_screen`.
    n_pairs
        Number of pairs drawn, from the first.
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
    >>> ax = sagefm.pl.perturbation_dots(table.assign(q=[0.02, 0.2]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['A → C', 'B → C']
    """
    require_columns(table, ["source", "target", "scaled_effect", "p", "q"], "SAGEFM.perturb")
    drawn = table.dropna(subset=["scaled_effect"]).assign(size=lambda rows: rows["scaled_effect"].abs())
    drawn["pair"] = drawn["source"].astype(str) + " → " + drawn["target"].astype(str)
    drawn["group"] = drawn["group"].astype(str) if "group" in drawn else "all spots"
    pairs = pd.Index(drawn.sort_values(["p", "size"], ascending=[True, False])["pair"].unique())
    groups = pd.Index(drawn["group"].unique())
    title = f"{drawn.loc[drawn['q'] < _SIGNIFICANT, 'pair'].nunique()} of {len(pairs)} pairs have q < {_SIGNIFICANT}"
    pairs = pairs[:n_pairs]
    drawn = drawn[drawn["pair"].isin(pairs)]
    x, y = groups.get_indexer(pd.Index(drawn["group"])), pairs.get_indexer(pd.Index(drawn["pair"]))
    evidence = -np.log10(drawn["q"].fillna(1).clip(lower=10.0**-_LARGEST_EVIDENCE))
    ax = new_axes() if ax is None else ax
    options = {"s": _dot_size(evidence), "cmap": DIVERGING, "norm": CenteredNorm()}
    scatter(ax, x, y, drawn["scaled_effect"], "effect (sd of the target)", **options)
    _legend_of_q(ax)
    ax.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 3 else 0)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(pairs) - 0.5, -0.5), title=title)
    return ax


def _dot_size(evidence: Any) -> Any:
    """Return the area of a dot in points squared, from -log10 q; the scale does not depend on the table."""
    return _SMALLEST_DOT + (_LARGEST_DOT - _SMALLEST_DOT) * np.minimum(evidence, _LARGEST_EVIDENCE) / _LARGEST_EVIDENCE


def _legend_of_q(ax: Axes) -> None:
    values = [1, 0.05, 0.01, 0.001]
    handles = [ax.scatter([], [], s=_dot_size(-np.log10(q)), color=NEUTRAL, label=f"{q:g}") for q in values]
    legend = ax.legend(handles=handles, title="q", ncols=len(values), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    legend.set_frame_on(False)


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


def effect_map(
    adata: AnnData,
    response: pd.DataFrame,
    *,
    label: str = "effect (log1p)",
    sample_key: str | None = None,
    spatial_key: str = "spatial",
    ncols: int = 4,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Map on the tissue by how much a perturbation changes the predicted target.

    Colours diverge around zero, on one scale for all sections.

    Parameters
    ----------
    adata
        Spots with coordinates.
    response
        Result of :meth:`sagefm.SAGEFM.get_dose_response` for all or some of these spots. The effect is its last column
        minus its first.
    label
        Label of the colour bar.
    sample_key, spatial_key, ncols, axes
        As in :func:`sagefm.pl.domains`.

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
    light = AnnData(obs=adata.obs.assign(**{label: effect}), obsm=dict(adata.obsm))
    norm = CenteredNorm(halfrange=max(effect.abs().max(), 1e-12))
    grid = draw_maps(light, [label], sample_key, spatial_key, ncols, axes, cmap=DIVERGING, norm=norm)
    for ax in grid.ravel():
        ax.set_title(ax.get_title().removeprefix(label).strip())
        ax.collections[0].colorbar.set_label(label)
    return grid


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
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter("{x:.3g}")  # an offset or exponent would be printed over the label
    ax.set(xlabel="mean size of the attribution (log1p)", ylabel="", title=", ".join(map(str, chosen.values())))
    return ax
