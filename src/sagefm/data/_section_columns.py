"""Warnings about spots that should not be neighbours: of several sections without `sample_key`, or outside tissue."""

import re
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sagefm.data._layout import IRREGULAR, detect_lattice
from sagefm.data._selection import data_frame

_SECTION_NAME = re.compile(
    r"(sample|section|library|slide|slice|batch|patient|donor|subject|individual|animal|mouse|specimen|replicate|puck"
    r"|capture[_. ]?area|orig)([_. ]?(id|name|nr|no|number|ident))?",
    re.IGNORECASE,
)
_MIN_SPOTS = 7  # a column whose values have fewer spots on average does not name sections
_MIN_LATTICE, _MAX_SECTIONS = 20, 100  # spots of a section whose lattice is looked for; sections of an irregular union


def names_section(column: object) -> bool:
    """Whether a column of `obs` names sections, or patients, by its own name."""
    return _SECTION_NAME.fullmatch(str(column)) is not None


def warn_if_sections_are_joined(
    adata: AnnData, graph: sp.csr_matrix, *, irregular: list[tuple[np.ndarray, np.ndarray]], n_sections: int
) -> None:
    """Warn if edges of a new graph join spots that `obs` or `uns["spatial"]` assigns to different sections.

    `irregular` holds rows and coordinates of each section in which no lattice was found.
    """
    edges = graph.tocoo()
    columns = section_columns(adata)
    if not any(_n_joined(codes, edges) for codes in columns.values()):
        columns = _columns_of_lattices(adata, irregular)
    n_joined = {name: _n_joined(codes, edges) for name, codes in columns.items()}
    if any(n_joined.values()):
        column = max(n_joined, key=n_joined.__getitem__)
        _warn_joined(adata, column, n_joined[column], edges.nnz)
    elif n_sections == 1 and (libraries := _libraries(adata)) and not _columns_with(adata, libraries):
        warnings.warn(
            f"uns['spatial'] has {len(libraries)} libraries (for example {libraries[0]!r} and {libraries[1]!r}), but "
            "no column of obs holds their names, and all spots were treated as one section. If these are several "
            "sections, their neighbours are mixed: delete the graph from obsp, and pass the obs column that "
            "distinguishes them as `sample_key`.",
            UserWarning,
            stacklevel=2,
        )


def _warn_joined(adata: AnnData, column: object, n_joined: int, n_edges: int) -> None:
    values = [str(value) for value in data_frame(adata.obs)[column].dropna().unique()]
    warnings.warn(
        f"{n_joined} of the {n_edges} edges of the new neighbour graph join spots with different obs[{column!r}] "
        f"({len(values)} values, for example {values[0]!r} and {values[1]!r}). If these are several sections, their "
        f"neighbours are mixed: delete the graph from obsp, and pass `sample_key={column!r}`.",
        UserWarning,
        stacklevel=3,
    )


def section_columns(adata: AnnData) -> dict[object, np.ndarray]:
    """Return the codes of the columns that name sections by their own name, in SpatialData, or by their values."""
    region = adata.uns.get("spatialdata_attrs", {}).get("region_key")
    obs = data_frame(adata.obs)
    named = {column for column in obs if names_section(column) or column == region}
    named |= set(_columns_with(adata, _libraries(adata)))
    return {column: codes for column in obs if column in named and (codes := _codes(obs[column])) is not None}


def _libraries(adata: AnnData) -> list[str]:
    """Return the names of the libraries in `uns["spatial"]` if there are several."""
    spatial = adata.uns.get("spatial")
    names = [str(name) for name in spatial] if isinstance(spatial, Mapping) else []
    return names if len(names) > 1 else []


def _columns_with(adata: AnnData, libraries: list[str]) -> list[object]:
    """Return the columns of `obs` whose values are names of libraries."""
    texts = data_frame(adata.obs).select_dtypes(["object", "string", "category"]).dropna(axis=1, how="all")
    return [name for name in texts if libraries and texts[name].dropna().astype(str).isin(libraries).all()]


def _codes(values: pd.Series) -> np.ndarray | None:
    """Return the values as numbers, -1 where missing; None if they do not divide the spots into sections."""
    codes, found = pd.factorize(values)
    return codes if 1 < len(found) <= len(values) / _MIN_SPOTS else None


def _n_joined(codes: np.ndarray, edges: sp.coo_matrix) -> int:
    """Return how many edges join spots with different codes."""
    start, end = codes[edges.row], codes[edges.col]
    return int(((start != end) & (start >= 0) & (end >= 0)).sum())


def _columns_of_lattices(adata: AnnData, irregular: list[tuple[np.ndarray, np.ndarray]]) -> dict[object, np.ndarray]:
    """Return the codes of the columns that divide an irregular section into lattices, whatever their names."""
    obs = data_frame(adata.obs)
    columns = {name: _codes(obs[name]) for name in obs if obs[name].dtype.kind != "f"}
    return {
        name: codes
        for name, codes in columns.items()
        if codes is not None and any(_are_lattices(codes[rows], coordinates) for rows, coordinates in irregular)
    }


def _are_lattices(codes: np.ndarray, coordinates: np.ndarray) -> bool:
    values, n_spots = np.unique(codes[codes >= 0], return_counts=True)
    if not 1 < len(values) <= _MAX_SECTIONS or n_spots.min() < _MIN_LATTICE:
        return False
    return all(detect_lattice(coordinates[codes == value]) != IRREGULAR for value in values)


def warn_outside_tissue(adata: AnnData) -> None:
    """Warn if some spots, and not all, have `obs["in_tissue"] == 0`."""
    obs = data_frame(adata.obs)
    if "in_tissue" not in obs:
        return
    outside = pd.to_numeric(obs["in_tissue"].astype(str).replace({"False": "0"}), errors="coerce") == 0
    if 0 < (n_outside := int(outside.sum())) < adata.n_obs:
        warnings.warn(
            f"{n_outside} of {adata.n_obs} spots are outside the tissue (obs['in_tissue'] is 0), but are used as "
            "spots and as neighbours. To leave them out: "
            "`adata = adata[adata.obs['in_tissue'].astype(int) == 1].copy()`, before the graph is built.",
            UserWarning,
            stacklevel=2,
        )
