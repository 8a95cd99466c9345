"""Requested spots: validate `indices`, `groupby` and columns of `obs`."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm._errors import MissingKeyError


def checked_rows(indices: Sequence[int] | np.ndarray | None, n_obs: int) -> np.ndarray:
    """Return `indices`, positions or boolean, as positions; all spots for None."""
    if indices is None:
        return np.arange(n_obs)
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n_obs,):
        if not rows.any():
            raise ValueError("`indices` is a boolean array without a True; select at least one spot.")
        return np.flatnonzero(rows)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or len(rows) == 0:
        raise ValueError(
            f"`indices` must be positions of spots or a boolean array of length {n_obs}; found {rows.dtype} of shape "
            f"{rows.shape}."
        )
    first, last = int(rows.min()), int(rows.max())  # of Python, which compares them whatever their type
    if first < -n_obs or last >= n_obs:
        raise IndexError(f"`indices` range from {first} to {last}, but there are {n_obs} spots.")
    return rows.astype(np.intp) % n_obs


def group_spots(rows: np.ndarray, adata: AnnData, groupby: str | None) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Return the rows that have a group, the names of the groups, and the weights of rows in them, (groups, rows)."""
    if groupby is None:
        return rows, ["all"], np.full((1, len(rows)), 1 / len(rows), dtype=np.float32)
    labels = obs_column(adata, groupby, "groupby").iloc[rows].astype("category").cat.remove_unused_categories()
    rows, codes = rows[labels.notna()], labels.cat.codes[labels.notna()].to_numpy()
    if not len(rows):
        raise ValueError(f"obs[{groupby!r}] is missing for all of the requested spots.")
    member = codes == np.arange(len(labels.cat.categories))[:, None]
    return rows, list(labels.cat.categories), shares(member)


def obs_column(adata: AnnData, key: Hashable, argument: str) -> pd.Series:
    """Return the column of `obs` that an argument names."""
    obs = data_frame(adata.obs)
    if key not in obs:
        raise MissingKeyError(f"{argument}={key!r} is not a column of obs; found {list(obs)}.")
    return obs[key]


def refuse_unwritable_key(key: str | None, argument: str) -> None:
    """Raise for a key under which results could not be read back from a file of AnnData."""
    if key is not None and "/" in key:
        raise ValueError(
            f"{argument}={key!r} contains '/', which separates groups in the files of AnnData; use another character."
        )


def data_frame(table: Any) -> pd.DataFrame:
    """Return `obs` or `var` as a DataFrame, which it is unless the AnnData was read lazily."""
    return table if isinstance(table, pd.DataFrame) else table.to_memory()


def shares(member: np.ndarray) -> np.ndarray:
    """Return the weights that average over the members of each group, from boolean `member`, both (groups, rows)."""
    return (member / member.sum(axis=1, keepdims=True)).astype(np.float32)
