"""Plots that return matplotlib axes, in colours that the colour-blind can tell apart, on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.ticker import MaxNLocator
from sklearn.neighbors import NearestNeighbors

from sagefm._errors import MissingKeyError
from sagefm.data import obs_column

if TYPE_CHECKING:
    from sagefm import SAGEFM

# Okabe and Ito (2008), with a grey for black, in an order that keeps neighbouring layers apart. A lighter grey would be
# their purple to those who see no green, a darker one vanishes on black.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#636363")
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_NEUTRAL = "0.5"
_UNKNOWN = (0.5, 0.5, 0.5, 0.3)
_PANEL = 4.2  # inches


def recovery(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Plot how well genes are recovered against the mean of the neighbours, one dot a gene.

    Genes above the diagonal are told better by the model than by the mean of their neighbours.

    Parameters
    ----------
    table
        What :meth:`sagefm.SAGEFM.get_masked_recovery` returned. Its totals, in `attrs`, make the title where they are.
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
    _require_columns(table, ["r", "r_neighbors", "mean_expression"], "SAGEFM.get_masked_recovery")
    ax = _new_axes() if ax is None else ax
    drawn = table.dropna(subset=["r", "r_neighbors"])
    drawn = drawn[drawn["mean_expression"] > 0].sort_values("mean_expression")
    dots = ax.scatter(
        drawn["r_neighbors"],
        drawn["r"],
        c=drawn["mean_expression"],
        s=float(np.clip(20_000 / max(len(drawn), 1), 4, 25)),
        cmap=_mid_viridis(),
        norm=LogNorm(),
        linewidths=0,
        rasterized=True,
    )
    ax.axline((0, 0), slope=1, color=_NEUTRAL, linewidth=1)
    ax.set(aspect="equal", xlabel="r of the mean of the neighbours", ylabel="r of the model", title=_totals(table))
    ax.figure.colorbar(dots, ax=ax, label="mean expression (log1p)", fraction=0.046, pad=0.03)
    return ax


def _require_columns(table: pd.DataFrame, columns: list[str], source: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise MissingKeyError(
            f"The table has no column {missing[0]!r}; it has {list(table)}. Pass what `{source}` returned."
        )


def _totals(table: pd.DataFrame) -> str:
    if "top500_r" not in table.attrs:  # pandas drops attrs in many operations, and files do not hold them
        return ""
    totals = table.attrs
    n_top = min(500, totals["n_genes"])
    return (
        f"mean r of the {n_top} most expressed genes\n"
        f"model {totals['top500_r']:.2f}, neighbours {totals['top500_r_neighbors']:.2f}"
    )


def _mid_viridis() -> Colormap:
    # The ends of viridis vanish, the dark one on black and the bright one on white.
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0.2, 0.9, 256)))


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
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> model = sagefm.SAGEFM(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> ax = sagefm.pl.history(model)
    >>> [line.get_label() for line in ax.lines]
    ['training', 'validation']
    """
    if not model.history:
        raise RuntimeError("The model is untrained and has no history. Call `model.train()` first.")
    ax = _new_axes() if ax is None else ax
    for key, label, color in (("train_loss", "training", _BLUE), ("validation_loss", "validation", _VERMILION)):
        if key in model.history:
            loss = model.history[key].iloc[:, 0].astype(float)
            ax.plot(loss.index + 1, loss, label=label, color=color, marker="o" if len(loss) == 1 else None)
    ax.set(xlabel="epoch", ylabel="loss on masked genes")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def domains(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    sample_key: str | None = None,
    spatial_key: str = "spatial",
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Map columns of `obs` on the tissue: a row of panels for each section, a column for each key.

    This is :func:`squidpy.pl.spatial_scatter` for sections without an image: spots are as large as the lattice asks
    for, whatever the size of the panel. As in images, y points down. Colours are those in `uns[f"{key}_colors"]`,
    where scanpy puts them; otherwise those of Okabe and Ito up to 8 categories, scanpy's own beyond.

    Parameters
    ----------
    adata
        Spots with coordinates.
    keys
        Columns of `obs`, with categories or numbers.
    sample_key
        Column of `obs` that tells sections apart.
    spatial_key
        Key in `obsm` of the coordinates.
    axes
        Axes to draw on, one for each section and key; new ones by default.

    Returns
    -------
    numpy.ndarray
        :class:`matplotlib.axes.Axes`, (sections, keys).

    Raises
    ------
    KeyError
        If a key is not there; the message lists those that are.
    ValueError
        If `axes` are not as many as the panels.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)
    >>> sagefm.pl.domains(adata, "annotation", sample_key="sample").shape
    (2, 1)
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    _require_keys(adata, keys, spatial_key)
    sections = _sections(adata, sample_key)
    grid = _panel_grid(axes, len(sections), len(keys))
    light = _for_squidpy(adata, keys, spatial_key)
    for row, (section, spots) in zip(grid, sections.items(), strict=True):
        for ax, key in zip(row, keys, strict=True):
            _draw_panel(light[spots].copy(), key, ax)
            ax.set_title(f"{key}\n{section}" if len(sections) > 1 else key)
    return grid


def _require_keys(adata: AnnData, keys: list[str], spatial_key: str) -> None:
    for key in keys:
        obs_column(adata, key, "keys")
    if spatial_key not in adata.obsm:
        raise MissingKeyError(f"spatial_key={spatial_key!r} is not in obsm; there are {sorted(adata.obsm)}.")


def _sections(adata: AnnData, sample_key: str | None) -> dict[str, np.ndarray]:
    if sample_key is None:
        return {"": np.arange(adata.n_obs)}
    names = obs_column(adata, sample_key, "sample_key").astype(str).to_numpy()
    return {name: np.flatnonzero(names == name) for name in np.unique(names)}


def _panel_grid(axes: Axes | Sequence[Axes] | np.ndarray | None, n_rows: int, n_columns: int) -> np.ndarray:
    if axes is None:
        size = (1.3 * _PANEL * n_columns, _PANEL * n_rows)
        return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")[1]
    given = np.asarray(axes, dtype=object).ravel()
    if len(given) != n_rows * n_columns:
        raise ValueError(f"There are {len(given)} axes for {n_rows} section(s) and {n_columns} key(s).")
    return given.reshape(n_rows, n_columns)


def _for_squidpy(adata: AnnData, keys: list[str], spatial_key: str) -> AnnData:
    """Return what squidpy reads and no more, so that the user's object stays as it is."""
    obs = adata.obs[list(dict.fromkeys(keys))].copy()
    colors: dict[str, Any] = {}
    for key in obs:
        if pd.api.types.is_numeric_dtype(obs[key]) and not pd.api.types.is_bool_dtype(obs[key]):
            continue
        obs[key] = obs[key].astype("category")
        n_categories = len(obs[key].cat.categories)
        given = adata.uns.get(f"{key}_colors", ())
        if len(given) == n_categories:
            colors[f"{key}_colors"] = list(given)
        elif n_categories <= len(_PALETTE):
            colors[f"{key}_colors"] = list(_PALETTE[:n_categories])
    return AnnData(obs=obs, obsm={"spatial": np.asarray(adata.obsm[spatial_key], dtype=float)[:, :2]}, uns=colors)


def _draw_panel(section: AnnData, key: str, ax: Axes) -> None:
    import squidpy as sq  # takes seconds, and the other plots do without

    # squidpy draws in units of the tissue only where it finds the scale factors of an image.
    scales = {"spot_diameter_fullres": _spot_diameter(section.obsm["spatial"]), "tissue_hires_scalef": 1.0}
    section.uns["spatial"] = {"section": {"scalefactors": scales, "images": {}}}
    sq.pl.spatial_scatter(
        section,
        color=key,
        shape="circle",
        img=False,
        cmap=_mid_viridis(),
        na_color=_UNKNOWN,
        legend_fontweight="normal",
        frameon=False,
        ax=ax,
    )


def _spot_diameter(coordinates: np.ndarray) -> float:
    """Return a little more than the distance of neighbours: no gaps, and little overlap."""
    if len(coordinates) < 2:
        return 1.0
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    return 1.12 * float(np.median(distances))


def _new_axes() -> Axes:
    return plt.subplots(figsize=(1.2 * _PANEL, _PANEL), layout="constrained")[1]
