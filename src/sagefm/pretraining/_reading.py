"""Reading one section from disk: counts, names, places and graph, and nothing else that the file may hold."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import zarr
from anndata.utils import make_index_unique

from sagefm._errors import MissingKeyError
from sagefm._fields import SectionField
from sagefm._genes import gene_names
from sagefm._registry import SectionKeys

SPACE_RANGER_COUNTS = "filtered_feature_bc_matrix.h5"
# What reading a file that is damaged or of another kind raises.
READING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, AttributeError, zlib.error)


def is_section(path: Path) -> bool:
    """Whether the path looks like something that :func:`read_section` reads."""
    return path.suffix in (".h5ad", ".zarr") or (path / SPACE_RANGER_COUNTS).exists()


def read_section(path: Path, keys: SectionKeys) -> ad.AnnData:
    """Read a section: counts in `X` as CSR, genes in `var_names`, spots without counts left out.

    `.h5ad` and `.zarr` are AnnData; another folder is taken for the output of 10x Space Ranger. Genes that share a
    name are told apart as `adata.var_names_make_unique()` does.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    is_anndata = path.suffix in (".h5ad", ".zarr")
    if keys.layer and not is_anndata:
        raise ValueError(f"layer={keys.layer!r}: {path} is no AnnData file and has no layers; leave `layer` out.")
    adata = _anndata(path, keys) if is_anndata else read_space_ranger(path)
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.X = counts
    return adata[np.asarray(counts.sum(axis=1)).ravel() != 0].copy()  # NaN stays, to be refused by name


def _anndata(path: Path, keys: SectionKeys) -> ad.AnnData:
    with _opened(path) as group:
        counts = _element(group, f"layers/{keys.layer}" if keys.layer else "X")
        obs, var = _element(group, "obs"), _element(group, "var")
        spatial, graph = f"obsm/{keys.spatial_key}", f"obsp/{keys.neighbors_key}_connectivities"
        obsm = {keys.spatial_key: ad.io.read_elem(group[spatial])} if spatial in group else {}
        obsp = {f"{keys.neighbors_key}_connectivities": ad.io.read_elem(group[graph])} if graph in group else {}
    var.index = make_index_unique(var.index.astype(str))
    adata = ad.AnnData(counts, obs=obs, var=var, obsm=obsm, obsp=obsp)
    sections_of(adata, keys)  # raises while the other columns can be named
    adata.obs = obs[[keys.sample_key] if keys.sample_key else []]
    adata.var = pd.DataFrame(index=_unique_names(adata, keys.gene_symbols))
    return adata


def sections_of(adata: ad.AnnData, keys: SectionKeys) -> np.ndarray:
    """Return the section of every spot, (n,), where the file holds several; else one for all."""
    field = SectionField(keys.sample_key)
    if not field.is_empty:
        field.validate_field(adata)
    return field.sections(adata)


def _unique_names(adata: ad.AnnData, gene_symbols: str | None) -> pd.Index:
    if gene_symbols in adata.var:
        return make_index_unique(pd.Index(adata.var[gene_symbols].astype(str)))
    return gene_names(adata, gene_symbols)


def read_space_ranger(path: Path) -> ad.AnnData:
    """Read the counts and places that 10x Space Ranger wrote to a folder, without its images."""
    if not (path / SPACE_RANGER_COUNTS).exists():
        raise FileNotFoundError(f"{path} is no .h5ad, no .zarr and no Space Ranger folder with {SPACE_RANGER_COUNTS}.")
    adata = sc.read_10x_h5(path / SPACE_RANGER_COUNTS)
    adata.var_names_make_unique()
    adata.obsm["spatial"] = _places(path / "spatial").reindex(adata.obs_names).to_numpy()
    return adata


def _places(folder: Path) -> pd.DataFrame:
    """Return column and row of each barcode in the full image; Space Ranger 1 wrote the table without a header."""
    columns = ["barcode", "in_tissue", "array_row", "array_col", "row", "column"]
    new, old = folder / "tissue_positions.csv", folder / "tissue_positions_list.csv"
    table = pd.read_csv(new, names=columns, skiprows=1) if new.exists() else pd.read_csv(old, names=columns)
    return table.set_index("barcode")[["column", "row"]]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".zarr":
        yield zarr.open_group(path, mode="r")
    else:
        with closing(h5py.File(path, "r")) as file:
            yield file


def _element(group: Any, key: str) -> Any:
    if key not in group:
        folder = key.rpartition("/")[0]
        there = list(group[folder]) if folder and folder in group else list(group)
        raise MissingKeyError(f"There is no {key!r} in it; there are {there}.")
    return ad.io.read_elem(group[key])
