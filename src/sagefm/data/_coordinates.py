"""The coordinates of the spots in obsm, checked; array positions of a hexagonal grid get one unit on both axes."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sagefm._errors import MissingKeyError
from sagefm.data._selection import data_frame

_STACK = ["x", "y", "z"]


def checked_coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    """Return finite coordinates, (spots, 2), or (spots, 3) if the columns are named x, y and z."""
    if spatial_key not in adata.obsm:
        raise MissingKeyError(
            f"There is neither a neighbour graph nor coordinates to build one from: obsm has no {spatial_key!r}; found "
            f"{sorted(adata.obsm)}. Put the spots' coordinates there, or pass their key as `spatial_key`."
        )
    stored, where = adata.obsm[spatial_key], f"obsm[{spatial_key!r}]"
    _refuse_other_columns(stored, where)
    try:
        coordinates = np.asarray(stored.toarray() if sp.issparse(stored) else stored, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must hold numbers, x and y of each spot: {error}.") from error
    wrong = ~np.isfinite(coordinates)
    if wrong.any():
        rows = np.flatnonzero(wrong.any(axis=1))
        raise ValueError(
            f"{where} must hold one finite coordinate pair for each spot; found shape {coordinates.shape} with "
            f"{int(wrong.sum())} values that are NaN or infinite, in {len(rows)} spot(s), for example "
            f"{adata.obs_names[rows[0]]!r}. Fill them in, or leave these spots out: "
            f"`adata = adata[numpy.isfinite(adata.{where}).all(axis=1)].copy()`."
        )
    return coordinates


def _refuse_other_columns(stored: Any, where: str) -> None:
    """Raise unless there are two columns, or three with the names of a stack."""
    shape = np.shape(stored)
    names = [str(name) for name in stored.columns] if isinstance(stored, pd.DataFrame) else []
    is_stack = [name.lower() for name in names] == _STACK
    if len(shape) == 2 and (is_stack or shape[1] == 2) and "in_tissue" not in names:
        return
    found = f"{where} must have two columns, x and y; found {f'the columns {names}' if names else f'shape {shape}'}."
    if len(shape) != 2 or shape[1] < 3:
        raise ValueError(found)
    pixels = [name for name in names if name.startswith("pxl_")]
    pair = (pixels or [name for name in names if name != "in_tissue"])[:2]
    keep = f"[{pair}]" if names else "[:, :2]"
    stack = f"pandas.DataFrame(numpy.asarray(adata.{where}), adata.obs_names, {_STACK})"
    advice = f" If the third is the depth in a stack of sections, name them: `adata.{where} = {stack}`."
    raise ValueError(
        f"{found} Keep the two that are coordinates: `adata.{where} = adata.{where}{keep}`."
        f"{advice if shape[1] == 3 else ''}"
    )


def row_axis(adata: AnnData, spatial_key: str, coordinates: np.ndarray) -> int | None:
    """Return which coordinate is the row of a Visium array, by its name or by `obs["array_row"]`; None if neither is.

    Only meaningful for coordinates that are array positions.
    """
    stored = adata.obsm[spatial_key]
    if isinstance(stored, pd.DataFrame):
        axes = [axis for axis, name in enumerate(stored.columns) if "row" in str(name).lower()]
    elif "array_row" in adata.obs:
        rows = pd.to_numeric(data_frame(adata.obs)["array_row"], errors="coerce").to_numpy(dtype=float)
        axes = [axis for axis in range(coordinates.shape[1]) if np.array_equal(coordinates[:, axis], rows)]
    else:
        axes = []
    return axes[0] if len(axes) == 1 else None


def are_hexagonal_array_positions(coordinates: np.ndarray) -> bool:
    """Whether these are rows and columns of a Visium array, in which row + column is even, or odd, for all spots."""
    if coordinates.shape[1] != 2 or not np.array_equal(coordinates, np.round(coordinates)):
        return False
    return len(np.unique(coordinates.sum(axis=1) % 2)) == 1 and len(np.unique(coordinates[:, 0] % 2)) == 2


def in_one_unit(coordinates: np.ndarray, axis: int | None, section: object) -> np.ndarray:
    """Return array positions of a hexagonal grid in half distances between spots; warn if the row is not known."""
    if not are_hexagonal_array_positions(coordinates):
        return coordinates
    if axis is None:
        warnings.warn(
            f"The coordinates of section {section!r} look like rows and columns of a Visium array, where a step along "
            "a row is 1/sqrt(3) of a step between rows. It is not known which of them is the row, so the graph joins "
            "the nearest spots in array units. Use coordinates in pixels, put the rows into `obs['array_row']`, or "
            "provide your own graph in obsp.",
            UserWarning,
            stacklevel=2,
        )
        return coordinates
    scaled = coordinates.copy()
    scaled[:, axis] *= np.sqrt(3)
    return scaled
