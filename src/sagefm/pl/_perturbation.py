"""Plots of in-silico perturbations and of what predictions rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap

from sagefm._errors import MissingKeyError
from sagefm.pl._model import _BLUE, _VERMILION, _new_axes, _require_columns, domains

# Blue to vermilion through a middle grey that shows on white and on black.
_DIVERGING = LinearSegmentedColormap.from_list("sagefm_diverging", [_BLUE, "#999999", _VERMILION])
_LARGEST_DOT = 180.0  # points squared
_SIDES = {"center_size": "in the spot", "neighbors_size": "in its neighbours"}


def perturbation_dots(table: pd.DataFrame, *, n_pairs: int = 20, ax: Axes | None = None) -> Axes:
    """Plot pairs as dots: one row a pair, one column a group, colour the effect and size the evidence.

    Parameters
    ----------
    table
        What :meth:`sagefm.SAGEFM.perturb` or :func:`sagefm.tl.ligand_receptor_screen` returned.
    n_pairs
        Number of pairs drawn: those of the smallest p in any group, or of the largest effect where there is no p.
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
    _require_columns(table, ["source", "target", "scaled_effect", "p"], "SAGEFM.perturb")
    drawn = table.dropna(subset=["scaled_effect"]).copy()
    drawn["pair"] = drawn["source"].astype(str) + " → " + drawn["target"].astype(str)
    drawn["group"] = drawn["group"].astype(str) if "group" in drawn else "all spots"
    order = drawn["p"].fillna(1) - 1e-9 * drawn["scaled_effect"].abs().rank()
    pairs = order.groupby(drawn["pair"]).min().nsmallest(n_pairs).index
    groups, drawn = list(dict.fromkeys(drawn["group"])), drawn[drawn["pair"].isin(pairs)]
    ax = _new_axes() if ax is None else ax
    evidence = -np.log10(drawn["p"].fillna(1).clip(lower=1e-300))
    dots = ax.scatter(
        [groups.index(group) for group in drawn["group"]],
        pairs.get_indexer(pd.Index(drawn["pair"])),
        c=drawn["scaled_effect"],
        s=15 + _LARGEST_DOT * evidence / max(evidence.max(), 1e-9),
        cmap=_DIVERGING,
        norm=CenteredNorm(),
        linewidths=0,
    )
    ax.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 3 else 0)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(pairs) - 0.5, -0.5), title="size: -log10 p")
    ax.figure.colorbar(dots, ax=ax, label="effect (sd of the target)", fraction=0.046, pad=0.03)
    return ax


def dose_response(response: pd.DataFrame, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot the mean predicted target against the level of the source, with the middle half of the spots.

    Parameters
    ----------
    response
        What :meth:`sagefm.SAGEFM.get_dose_response` returned. A subset of its rows draws these spots alone.
    label
        Name of the curve, for a legend.
    ax
        Axes to draw on, also a second time; new ones by default.

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
    ax = _new_axes() if ax is None else ax
    levels = response.columns.to_numpy(dtype=float)
    low, mean, high = response.quantile(0.25), response.mean(), response.quantile(0.75)
    (line,) = ax.plot(levels, mean, marker="o", label=label, color=None if ax.lines else _BLUE)
    ax.fill_between(levels, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    ax.set(xlabel=f"{response.columns.name or 'source'} (log1p)", ylabel="predicted target (log1p)")
    if label is not None:
        ax.legend(frameon=False)
    return ax


def effect_map(adata: AnnData, response: pd.DataFrame, *, label: str = "effect (log1p)", **kwargs: Any) -> np.ndarray:
    """Map on the tissue where a perturbation changes the predicted target, and by how much.

    Parameters
    ----------
    adata
        The spots, with coordinates.
    response
        What :meth:`sagefm.SAGEFM.get_dose_response` returned for them, or for some of them.
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
        If no spot of `response` is in `adata`.

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
        raise MissingKeyError("No spot of `response` that has an effect is in `adata`; were they of other sections?")
    sample_key = kwargs.get("sample_key")
    obs = adata.obs[[sample_key]].copy() if sample_key else pd.DataFrame(index=adata.obs_names)
    return domains(AnnData(obs=obs.assign(**{label: effect}), obsm=dict(adata.obsm)), label, **kwargs)


def influence_bars(
    table: pd.DataFrame, target: str | None = None, *, group: Any = None, n_genes: int = 15, ax: Axes | None = None
) -> Axes:
    """Plot the genes that a prediction rests on most, in the spot and in its neighbours.

    Parameters
    ----------
    table
        What :meth:`sagefm.SAGEFM.get_gene_influence` returned.
    target
        Which target; the first by default.
    group
        Which group, where the table has groups; the first by default.
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
    _require_columns(table, ["target", "gene", *_SIDES], "SAGEFM.get_gene_influence")
    chosen = {"target": target} | ({"group": group} if "group" in table else {})
    for column, value in chosen.items():
        value = table[column].iloc[0] if value is None else value
        there = list(dict.fromkeys(table[column]))
        if value not in there:
            raise MissingKeyError(f"The table has no {column} {value!r}; it has {there}.")
        chosen[column], table = value, table[table[column] == value]
    largest = table[list(_SIDES)].max(axis=1).nlargest(n_genes).index
    sizes: pd.DataFrame = table.loc[largest].set_index("gene")[list(_SIDES)].rename(columns=_SIDES)
    ax = _new_axes() if ax is None else ax
    sizes.plot(kind="barh", ax=ax, color=[_BLUE, _VERMILION], width=0.8, legend=False)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, which may all be long
    ax.set(xlabel="mean size of the attribution (log1p)", ylabel="", title=", ".join(map(str, chosen.values())))
    return ax
