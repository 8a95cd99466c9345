"""Reading one section from disk: counts, names, coordinates and graph, and nothing else that the file may hold."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

from sagefm._errors import MissingKeyError, UnreadableError
from sagefm.data._counts import in_memory
from sagefm.data._fields import SetupKeys
from sagefm.data._genes import possibly_duplicated_names

SPACE_RANGER_COUNTS = "filtered_feature_bc_matrix.h5"
# What the libraries raise for a file that is damaged or of another kind.
_LIBRARY_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, AttributeError, zlib.error)


def is_section(path: Path) -> bool:
    """Whether the path looks like something that :func:`read_section` reads."""
    return _is_anndata(path) or (path / SPACE_RANGER_COUNTS).exists()


def _is_anndata(path: Path) -> bool:
    return path.suffix in (".h5ad", ".zarr")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads the file into an error that names the file."""
    try:
        yield
    except (FileNotFoundError, MissingKeyError):
        raise
    except _LIBRARY_ERRORS as error:
        detail = f"{type(error).__name__}: {error}"
        raise UnreadableError(f"{path} cannot be read; it is damaged or of another kind ({detail}).") from error


def read_whole(path: Path) -> ad.AnnData:
    """Read everything in the file of a section, or what :func:`read_space_ranger` reads of a folder."""
    if not _is_anndata(path):
        return read_space_ranger(path)
    with reading(path):
        return ad.io.read_zarr(path) if path.suffix == ".zarr" else ad.io.read_h5ad(path)


def read_section(path: Path, keys: SetupKeys) -> ad.AnnData:
    """Read a section: counts in `X` as CSR, genes in `var_names`, without spots that have no counts.

    `.h5ad` and `.zarr` are AnnData; another folder is read as the output of 10x Space Ranger. Duplicate gene names are
    made unique as `adata.var_names_make_unique()` does.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if keys.layer and not _is_anndata(path):
        raise ValueError(f"layer={keys.layer!r}: {path} is not an AnnData file and has no layers; leave `layer` out.")
    adata = _read_anndata(path, keys) if _is_anndata(path) else read_space_ranger(path)
    if not in_memory(adata.X):
        raise UnreadableError(f"{path} has no count matrix; found {type(adata.X).__name__}.")
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() != 0].copy()  # NaN stays, to be refused by name


def _read_anndata(path: Path, keys: SetupKeys) -> ad.AnnData:
    is_zarr = path.suffix == ".zarr"
    with reading(path), nullcontext(zarr.open_group(path, mode="r")) if is_zarr else h5py.File(path, "r") as group:
        counts = _element(group, f"layers/{keys.layer}" if keys.layer else "X")
        obs, var = _element(group, "obs"), _element(group, "var")
        spatial, graph = f"obsm/{keys.spatial_key}", f"obsp/{keys.graph_key}"
        obsm = {keys.spatial_key: ad.io.read_elem(group[spatial])} if spatial in group else {}
        obsp = {keys.graph_key: ad.io.read_elem(group[graph])} if graph in group else {}
        var.index = make_index_unique(var.index.astype(str))
        adata = ad.AnnData(counts, obs=obs, var=var, obsm=obsm, obsp=obsp)
    keys.sections(adata)  # raises while the other columns can be named
    adata.obs = obs[[keys.sample_key] if keys.sample_key else []]
    adata.var = pd.DataFrame(index=make_index_unique(possibly_duplicated_names(adata, keys.gene_symbols)))
    return adata


def _element(group: Any, key: str) -> Any:
    if key not in group:
        folder = key.rpartition("/")[0]
        found = list(group[folder]) if folder and folder in group else list(group)
        raise MissingKeyError(f"The file has no {key!r}; found {found}.")
    return ad.io.read_elem(group[key])


def read_space_ranger(path: Path) -> ad.AnnData:
    """Read the counts and coordinates that 10x Space Ranger wrote to a folder, without its images."""
    if not (path / SPACE_RANGER_COUNTS).exists():
        raise FileNotFoundError(
            f"{path} is not an .h5ad file, a .zarr folder or a Space Ranger folder with {SPACE_RANGER_COUNTS}."
        )
    with reading(path):
        adata = sc.read_10x_h5(path / SPACE_RANGER_COUNTS)
        coordinates = _coordinates(path / "spatial")
    adata.var_names_make_unique()
    adata.obsm["spatial"] = coordinates.reindex(adata.obs_names).to_numpy()
    return adata


def _coordinates(folder: Path) -> pd.DataFrame:
    """Return column and row of each barcode in the full image; Space Ranger 1 wrote the table without a header."""
    columns = ["barcode", "in_tissue", "array_row", "array_col", "row", "column"]
    new, old = folder / "tissue_positions.csv", folder / "tissue_positions_list.csv"
    table = pd.read_csv(new, names=columns, skiprows=1) if new.exists() else pd.read_csv(old, names=columns)
    return table.set_index("barcode")[["column", "row"]]


def graph_of(adata: ad.AnnData, keys: SetupKeys) -> tuple[sp.csr_matrix, str]:
    """Return the checked neighbour graph of a section, built if it has none, and its origin in one line."""
    origin = "as in the file" if keys.graph_key in adata.obsp else keys.build_graph(adata)
    return keys.graph(adata), origin
