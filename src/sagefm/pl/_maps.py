"""Maps on the tissue."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from sklearn.neighbors import NearestNeighbors

from sagefm._errors import MissingKeyError
from sagefm._quiet import quiet
from sagefm.data import obs_column
from sagefm.pl._style import PANEL, SEQUENTIAL
from sagefm.tl._colors import colors_of
from sagefm.tl._inputs import as_numbers

# Arguments of squidpy for every panel; missing values are translucent grey.
_GREY = (0.5, 0.5, 0.5, 0.3)
_STYLE = {"shape": "circle", "img": False, "frameon": False, "legend_fontweight": "normal", "na_color": _GREY}


def domains(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    sample_key: str | None = None,
    spatial_key: str = "spatial",
    ncols: int = 4,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Map columns of `obs` on the tissue: one panel for each section and key.

    This calls :func:`squidpy.pl.spatial_scatter` for sections without an image: the size of the spots follows the
    lattice, whatever the size of the panel. As in images, y points down. Categories have the colours in
    `uns[f"{key}_colors"]`, or else the default colours of scanpy, so they are the same in plots of scanpy and squidpy.

    Parameters
    ----------
    adata
        Spots with coordinates; those whose coordinates are NaN are not drawn.
    keys
        Columns of `obs`, with categories or numbers.
    sample_key
        Column of `obs` with the section of each spot.
    spatial_key
        Key in `obsm` of the coordinates.
    ncols
        Most panels in a row. With several sections and several keys, each section starts a new row.
    axes
        Axes to draw on, one for each section and key; new ones by default.

    Returns
    -------
    numpy.ndarray
        :class:`matplotlib.axes.Axes`, (sections, keys).

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If the number of `axes` is not that of the panels, or `ncols` is below 1.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)
    >>> sagefm.pl.domains(adata, "annotation", sample_key="sample").shape
    (2, 1)
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    return draw_maps(adata, keys, sample_key, spatial_key, ncols, axes)


def draw_maps(
    adata: AnnData,
    keys: list[str],
    sample_key: str | None,
    spatial_key: str,
    ncols: int,
    axes: Axes | Sequence[Axes] | np.ndarray | None,
    **colors: Any,
) -> np.ndarray:
    """Draw the maps of :func:`domains`; `colors` are `cmap` and `norm` of columns of numbers."""
    light = _for_squidpy(adata, keys, spatial_key)
    sections = sections_of(adata, sample_key, spatial_key)
    grid = panel_grid(axes, len(sections), len(keys), ncols)
    for row, (section, spots) in zip(grid, sections.items(), strict=True):
        for ax, key in zip(row, keys, strict=True):
            _draw_panel(light[spots].copy(), key, ax, **colors)
            ax.set_title(f"{key}\n{section}" if len(sections) > 1 else key)
    return grid


def sections_of(adata: AnnData, sample_key: str | None, spatial_key: str) -> dict[str, np.ndarray]:
    """Return the positions of the drawn spots of each section: those with finite coordinates."""
    drawn = np.isfinite(_coordinates(adata, spatial_key)).all(axis=1)
    if not drawn.any():
        raise ValueError(f"No spot has finite coordinates in obsm[{spatial_key!r}].")
    names = obs_column(adata, sample_key, "sample_key") if sample_key is not None else pd.Series("", adata.obs_names)
    positions = pd.Series(np.arange(adata.n_obs))[drawn]
    return {name: rows.to_numpy() for name, rows in positions.groupby(names.astype(str).to_numpy()[drawn])}


def _for_squidpy(adata: AnnData, keys: list[str], spatial_key: str) -> AnnData:
    """Return only what squidpy reads, so that the user's object stays as it is."""
    obs = pd.DataFrame({key: obs_column(adata, key, "keys") for key in keys})
    colors = {}
    for key in obs.select_dtypes(exclude="number"):
        obs[key] = obs[key].astype("category")
        colors[f"{key}_colors"] = list(colors_of(adata, str(key)).values())
    return AnnData(obs=obs, obsm={"spatial": _coordinates(adata, spatial_key)}, uns=colors)


def _coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    if spatial_key not in adata.obsm:
        raise MissingKeyError(f"spatial_key={spatial_key!r} is not in obsm; there are {sorted(adata.obsm)}.")
    return as_numbers(adata.obsm[spatial_key], f"obsm[{spatial_key!r}]")[:, :2]


def panel_grid(axes: Axes | Sequence[Axes] | np.ndarray | None, n_sections: int, n_keys: int, ncols: int) -> np.ndarray:
    """Return axes, (sections, keys): those given, or new ones with at most `ncols` in a row."""
    if axes is not None:
        given = np.asarray(axes, dtype=object)
        if given.size != n_sections * n_keys:
            raise ValueError(f"Found {given.size} axes for {n_sections * n_keys} panels; pass one for each.")
        return given.reshape(n_sections, n_keys)
    if ncols < 1:
        raise ValueError(f"ncols={ncols} must be 1 or more.")
    n_lines, n_panels = (1, n_sections) if n_keys == 1 else (n_sections, n_keys)  # sections alone share rows
    n_columns = min(ncols, n_panels)
    n_rows = -(-n_panels // n_columns)
    size = (1.3 * PANEL * n_columns, PANEL * n_rows * n_lines)
    figure, drawn = plt.subplots(n_rows * n_lines, n_columns, figsize=size, squeeze=False, layout="constrained")
    lines = drawn.reshape(n_lines, n_rows * n_columns)
    for ax in lines[:, n_panels:].ravel():
        figure.delaxes(ax)
    return lines[:, :n_panels].reshape(n_sections, n_keys)


def _draw_panel(section: AnnData, key: str, ax: Axes, cmap: Colormap = SEQUENTIAL, **kwargs: Any) -> None:
    with quiet():
        import squidpy as sq  # its import takes seconds, and the other plots do not need it

    # squidpy draws in the units of the coordinates only if it finds the scale factors of an image.
    scales = {"spot_diameter_fullres": _spot_diameter(section.obsm["spatial"]), "tissue_hires_scalef": 1.0}
    section.uns["spatial"] = {"section": {"scalefactors": scales, "images": {}}}
    # A copy, because squidpy changes the colour map.
    with quiet():
        sq.pl.spatial_scatter(section, color=key, cmap=cmap.copy(), ax=ax, **_STYLE, **kwargs)


def _spot_diameter(coordinates: np.ndarray) -> float:
    """Return slightly more than the distance between neighbours: no gaps, and little overlap."""
    if len(coordinates) < 2:
        return 1.0
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    return 1.12 * float(np.median(distances))
