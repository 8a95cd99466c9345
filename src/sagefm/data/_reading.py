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
from sagefm.data._section_columns import names_section, warn_outside_tissue

SPACE_RANGER_COUNTS = "filtered_feature_bc_matrix.h5"
POSITIONS = ("in_tissue", "array_row", "array_col")  # columns of obs, as scanpy names them
POSITION_COLUMNS = ("barcode", *POSITIONS, "pxl_row_in_fullres", "pxl_col_in_fullres")
POSITION_FILES = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
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
    adata.obs = obs[[name for name in obs if name == keys.sample_key or name in POSITIONS or names_section(name)]]
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
            f"{_advice_on_bins(path)}"
        )
    with reading(path):
        adata = sc.read_10x_h5(path / SPACE_RANGER_COUNTS)
        positions = _positions(path / "spatial").reindex(adata.obs_names)
    adata.var_names_make_unique()
    adata.obs = positions[list(POSITIONS)]
    adata.obsm["spatial"] = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    return adata


def _advice_on_bins(path: Path) -> str:
    """Return the folders of bins in the output of Space Ranger for Visium HD, in a sentence."""
    bins = sorted(file.parent.name for file in path.glob(f"binned_outputs/*/{SPACE_RANGER_COUNTS}"))
    return f" For Visium HD, name one of the folders in {path / 'binned_outputs'}: {', '.join(bins)}." if bins else ""


def _positions(folder: Path) -> pd.DataFrame:
    """Return the positions of each barcode on the array, and its row and column in the full image.

    Space Ranger 1 wrote a CSV without a header, Space Ranger 2 one with a header, and Visium HD comes with Parquet.
    """
    found = [folder / name for name in POSITION_FILES if (folder / name).exists()]
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(POSITION_FILES)}, with the positions of the spots.")
    if found[0].suffix == ".parquet":
        table = _read_parquet(found[0])[list(POSITION_COLUMNS)]
    else:
        table = pd.read_csv(found[0], names=POSITION_COLUMNS, dtype=str)
        table = table[table["barcode"] != "barcode"]
    return table.set_index("barcode").apply(pd.to_numeric)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"Reading {path} needs pyarrow: `pip install pyarrow`.") from error


def graph_of(adata: ad.AnnData, keys: SetupKeys) -> tuple[sp.csr_matrix, str]:
    """Return the checked neighbour graph of a section, built if it has none, and its origin in one line."""
    warn_outside_tissue(adata)
    origin = "as in the file" if keys.graph_key in adata.obsp else keys.build_graph(adata)
    return keys.graph(adata), origin
