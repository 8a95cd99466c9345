"""Plots of how wide structures are and of how many domains are stable."""

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sagefm._errors import MissingKeyError
from sagefm.pl._style import BLUE, NEUTRAL, SEQUENTIAL, VERMILION, new_axes


def variograms(
    adata: AnnData,
    key: str = "X_sagefm_filtered",
    *,
    section: str | None = None,
    n_axes: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Plot the variograms of the axes that :func:`sagefm.tl.spatial_filter` kept most of.

    A variogram shows how different spots are that are 1, 2, ... rings apart, here relative to the variance of the axis.
    A line that begins near 1 is noise from spot to spot; one that rises slowly is a broad structure.

    Parameters
    ----------
    adata
        Spots with results of the filter in `uns`.
    key
        `key_added` of :func:`sagefm.tl.spatial_filter`.
    section
        Section to show; by default the first.
    n_axes
        Most axes drawn: those with the most spatial variance.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    KeyError
        If `uns` has no results under `key`, or there is no such section; the message lists those that exist.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 15, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> sagefm.tl.spatial_filter(adata, use_rep="X_pca")
    >>> len(sagefm.pl.variograms(adata, "X_pca_filtered", n_axes=3).lines)
    3
    """
    found = _result(adata, key, "axes", "sagefm.tl.spatial_filter")
    axes, points = (_of_section(found[name], section) for name in ("axes", "variograms"))
    axes = axes.assign(shared=axes["variance"] * axes["spatial_share"]).nlargest(n_axes, "shared")
    ax = new_axes() if ax is None else ax
    places = np.linspace(0, 1, len(axes))
    shown = zip(places, axes["axis"], axes["variance"], axes["spatial_share"], strict=True)
    for place, axis, variance, share in shown:
        line = points[points["axis"] == axis]
        label = f"axis {axis}, spatial share {share:.2f}"
        ax.plot(line["ring"], line["semivariance"] / variance, "o-", color=SEQUENTIAL(place), label=label)
    ax.set(xlabel="rings between spots", ylabel="semivariance / variance", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))  # lines fill the axes
    return ax


def stability(adata: AnnData, key: str = "domain", *, ax: Axes | None = None) -> Axes:
    """Plot how stable each number of domains is, with the linear trend and the number that was chosen.

    Parameters
    ----------
    adata
        Spots clustered by :func:`sagefm.tl.domains` with several numbers of domains.
    key
        `key_added` of :func:`sagefm.tl.domains`.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    KeyError
        If `uns` has no table of stability under `key`.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(15, 12, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> sagefm.tl.domains(adata, [3, 4, 5], use_rep="X_pca")
    >>> sagefm.pl.stability(adata).get_xlabel()
    'number of domains'
    """
    found = _result(adata, key, "stability", "sagefm.tl.domains, with several numbers of domains,")
    table, chosen = found["stability"], found["params"]["n_domains"]
    ax = new_axes() if ax is None else ax
    ax.plot(table["n_domains"], table["ari"] - table["above_trend"], "--", color=NEUTRAL, label="trend")
    ax.plot(table["n_domains"], table["ari"], "o-", color=BLUE)
    ax.plot(chosen, table.set_index("n_domains").loc[chosen, "ari"], "o", color=VERMILION, label="chosen")
    ax.set(xlabel="number of domains", ylabel="stability (mean ARI)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def _result(adata: AnnData, key: str, part: str, source: str) -> dict:
    found = adata.uns.get(key)
    if not isinstance(found, dict) or part not in found:
        raise MissingKeyError(f"uns[{key!r}] has no {part!r}; {source} writes it. Found {sorted(adata.uns)}.")
    return found


def _of_section(table: pd.DataFrame, section: str | None) -> pd.DataFrame:
    sections = table["section"].astype(str)
    if section is not None and str(section) not in set(sections):
        raise MissingKeyError(f"section={section!r} is not in the results; found {sorted(set(sections))}.")
    return table[sections == (sections.iloc[0] if section is None else str(section))]
