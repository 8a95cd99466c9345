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
from sagefm.pl._style import PALETTE, PANEL, SEQUENTIAL
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
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Map columns of `obs` on the tissue: one row of panels per section, one column per key.

    This calls :func:`squidpy.pl.spatial_scatter` for sections without an image: the size of the spots follows the
    lattice, whatever the size of the panel. As in images, y points down. Colours are those in `uns[f"{key}_colors"]`,
    where scanpy stores them; otherwise those of Okabe and Ito for up to 8 categories, and those of scanpy for more.

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
        If the number of `axes` is not that of the panels.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)
    >>> sagefm.pl.domains(adata, "annotation", sample_key="sample").shape
    (2, 1)
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    return draw_maps(adata, keys, sample_key, spatial_key, axes)


def draw_maps(
    adata: AnnData,
    keys: list[str],
    sample_key: str | None,
    spatial_key: str,
    axes: Axes | Sequence[Axes] | np.ndarray | None,
    **colors: Any,
) -> np.ndarray:
    """Draw the maps of :func:`domains`; `colors` are `cmap` and `norm` of columns of numbers."""
    light = _for_squidpy(adata, keys, spatial_key)
    names = obs_column(adata, sample_key, "sample_key") if sample_key is not None else pd.Series("", adata.obs_names)
    placed = np.isfinite(light.obsm["spatial"]).all(axis=1)
    if not placed.any():
        raise ValueError(f"No spot has finite coordinates in obsm[{spatial_key!r}].")
    light, names = light[placed], names[placed]
    sections = names.groupby(names.astype(str)).indices
    grid = _panel_grid(axes, len(sections), len(keys))
    for row, (section, spots) in zip(grid, sections.items(), strict=True):
        for ax, key in zip(row, keys, strict=True):
            _draw_panel(light[spots].copy(), key, ax, **colors)
            ax.set_title(f"{key}\n{section}" if len(sections) > 1 else key)
    return grid


def _for_squidpy(adata: AnnData, keys: list[str], spatial_key: str) -> AnnData:
    """Return only what squidpy reads, so that the user's object stays as it is."""
    obs = pd.DataFrame({key: obs_column(adata, key, "keys") for key in keys})
    if spatial_key not in adata.obsm:
        raise MissingKeyError(f"spatial_key={spatial_key!r} is not in obsm; there are {sorted(adata.obsm)}.")
    colors = {}
    for key in obs.select_dtypes(exclude="number"):
        obs[key] = obs[key].astype("category")
        n_categories = len(obs[key].cat.categories)
        given = adata.uns.get(f"{key}_colors", ())
        if len(given) == n_categories:
            colors[f"{key}_colors"] = list(given)
        elif n_categories <= len(PALETTE):
            colors[f"{key}_colors"] = list(PALETTE[:n_categories])
    coordinates = as_numbers(adata.obsm[spatial_key], f"obsm[{spatial_key!r}]")[:, :2]
    return AnnData(obs=obs, obsm={"spatial": coordinates}, uns=colors)


def _panel_grid(axes: Axes | Sequence[Axes] | np.ndarray | None, n_rows: int, n_columns: int) -> np.ndarray:
    if axes is None:
        size = (1.3 * PANEL * n_columns, PANEL * n_rows)
        return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")[1]
    given = np.asarray(axes, dtype=object)
    if given.size != n_rows * n_columns:
        raise ValueError(f"Found {given.size} axes for {n_rows} section(s) and {n_columns} key(s); pass one per panel.")
    return given.reshape(n_rows, n_columns)


def _draw_panel(section: AnnData, key: str, ax: Axes, cmap: Colormap = SEQUENTIAL, **kwargs: Any) -> None:
    with quiet():
        import squidpy as sq  # its import takes seconds, and the other plots do not need it

    # squidpy draws in the units of the coordinates only if it finds the scale factors of an image.
    scales = {"spot_diameter_fullres": _spot_diameter(section.obsm["spatial"]), "tissue_hires_scalef": 1.0}
    section.uns["spatial"] = {"section": {"scalefactors": scales, "images": {}}}
    # A copy, because squidpy changes the colour map.
    sq.pl.spatial_scatter(section, color=key, cmap=cmap.copy(), ax=ax, **_STYLE, **kwargs)


def _spot_diameter(coordinates: np.ndarray) -> float:
    """Return slightly more than the distance between neighbours: no gaps, and little overlap."""
    if len(coordinates) < 2:
        return 1.0
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    return 1.12 * float(np.median(distances))
