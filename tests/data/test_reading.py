"""Reading sections: a damaged file is an error that names it, and a bug in our own code is not."""

import re
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sagefm
from sagefm._errors import SECTION_ERRORS, UnreadableError
from sagefm.data import SetupKeys, read_section, read_whole
from sagefm.pretraining import Corpus


@pytest.fixture
def section(adata: ad.AnnData, tmp_path: Path) -> Path:
    path = tmp_path / "section.h5ad"
    adata.write_h5ad(path)
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_text(path: Path) -> None:
    path.write_text("not a section")


@pytest.mark.parametrize("damage", [truncate, replace_by_text])
def test_a_damaged_file_is_an_error_that_names_it(section, damage):
    damage(section)
    message = f"{section} cannot be read; it is damaged or of another kind ("
    for read in (lambda: read_section(section, SetupKeys()), lambda: read_whole(section)):
        with pytest.raises(UnreadableError, match=f"^{re.escape(message)}"):
            read()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer": "raw"}, "The file has no 'layers/raw'; found []."),
        ({"sample_key": "slide"}, "sample_key='slide' is not a column of obs; found ['array_row', "),
        ({"gene_symbols": "symbol"}, "gene_symbols='symbol' is not a column of var; found ["),
    ],
)
def test_a_missing_key_is_an_error_that_lists_those_found(section, keys, message):
    with pytest.raises(KeyError, match=f"^{re.escape(message)}"):
        read_section(section, SetupKeys(**keys))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.h5ad does not exist"):
        read_section(tmp_path / "none.h5ad", SetupKeys())
    with pytest.raises(FileNotFoundError, match="is not an .h5ad file, a .zarr folder or a Space Ranger folder"):
        read_section(tmp_path, SetupKeys())


def test_only_what_the_model_uses_is_read(section, adata):
    read = read_section(section, SetupKeys(sample_key="sample"))
    assert list(read.obs) == ["array_row", "array_col", "sample"] and list(read.var) == []
    assert set(read.obsm) == {"spatial"} and not read.uns
    assert np.array_equal(read.X.toarray(), adata.X.toarray())


# Space Ranger.

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def write_positions(table: pd.DataFrame, folder: Path, name: str, *, header: bool) -> None:
    if name.endswith(".parquet"):
        table.to_parquet(folder / name)
    else:
        table.to_csv(folder / name, index=False, header=header)


@pytest.fixture
def space_ranger(adata: ad.AnnData, tmp_path: Path) -> Path:
    """A folder with the counts of Space Ranger and an empty folder for positions."""
    folder = tmp_path / "outs"
    (folder / "spatial").mkdir(parents=True)
    counts = sp.csc_matrix(adata.X.T.astype(np.int32))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        for name in ("data", "indices", "indptr", "shape"):
            matrix[name] = getattr(counts, name)
        matrix["barcodes"] = adata.obs_names.to_numpy().astype("S")
        features = matrix.create_group("features")
        for name in ("id", "name"):
            features[name] = adata.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array([b"Gene Expression"] * adata.n_vars)
        features["genome"] = np.array([b"GRCh38"] * adata.n_vars)
    return folder


@pytest.fixture
def positions(adata: ad.AnnData) -> pd.DataFrame:
    """The table of positions, in another order and with a spot that has no counts."""
    x, y = adata.obsm["spatial"].astype(int).T
    row, column = adata.obs["array_row"], adata.obs["array_col"]
    table = pd.DataFrame(dict(zip(COLUMNS, (adata.obs_names, 1, row, column, y, x), strict=True)))
    other = pd.DataFrame([["other", 0, 0, 0, -5, -5]], columns=COLUMNS)
    return pd.concat([other, table[::-1]], ignore_index=True)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("tissue_positions_list.csv", False),
        ("tissue_positions_list.csv", True),
        ("tissue_positions.csv", True),
        ("tissue_positions.csv", False),
        ("tissue_positions.parquet", True),
    ],
)
def test_positions_of_space_ranger_are_read(space_ranger, positions, adata, name, header):
    write_positions(positions, space_ranger / "spatial", name, header=header)
    for read in (read_section(space_ranger, SetupKeys()), read_whole(space_ranger)):
        assert list(read.obs_names) == list(adata.obs_names)
        assert np.array_equal(read.obsm["spatial"], adata.obsm["spatial"].astype(int))
        assert np.array_equal(read.obs[["array_row", "array_col"]], adata.obs[["array_row", "array_col"]])
        assert (read.obs["in_tissue"] == 1).all()
        assert np.array_equal(read.X.toarray(), adata.X.toarray())


def test_a_folder_without_positions_is_an_error_that_names_the_files(space_ranger):
    with pytest.raises(
        FileNotFoundError, match="has none of tissue_positions.parquet, tissue_positions.csv, tissue_pos"
    ):
        read_section(space_ranger, SetupKeys())


def test_positions_with_other_columns_are_an_error_that_names_the_folder(space_ranger, positions):
    positions.drop(columns="array_row").to_parquet(space_ranger / "spatial" / "tissue_positions.parquet")
    with pytest.raises(UnreadableError, match="outs cannot be read.*array_row"):
        read_section(space_ranger, SetupKeys())


def test_parquet_without_pyarrow_is_an_error_that_says_what_to_install(space_ranger, positions, monkeypatch):
    write_positions(positions, space_ranger / "spatial", "tissue_positions.parquet", header=True)

    def fail(path: Path) -> None:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", fail)
    with pytest.raises(ImportError, match=r"tissue_positions.parquet needs pyarrow: `pip install pyarrow`\."):
        read_section(space_ranger, SetupKeys())


def test_the_output_of_visium_hd_is_read_by_bins(space_ranger, positions):
    write_positions(positions, space_ranger / "spatial", "tissue_positions.parquet", header=True)
    bins = space_ranger.parent / "hd" / "binned_outputs" / "square_016um"
    bins.parent.mkdir(parents=True)
    space_ranger.rename(bins)
    assert read_section(bins, SetupKeys()).n_obs == len(positions) - 1
    with pytest.raises(FileNotFoundError, match=r"name one of the folders in .*binned_outputs: square_016um\."):
        read_section(bins.parents[1], SetupKeys())


# A corpus skips sections that cannot be used, and hides no bug.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed).write_h5ad(tmp_path / f"{seed}.h5ad")
    return tmp_path


@pytest.mark.parametrize("damage", [truncate, replace_by_text])
def test_a_corpus_skips_a_damaged_file(folder, damage):
    damage(folder / "1.h5ad")
    report = Corpus(folder).report
    assert report["status"].tolist() == ["used", "skipped", "used"]
    assert "1.h5ad cannot be read" in report["reason"][1]


@pytest.mark.parametrize("on_error", ["skip", "raise"])
@pytest.mark.parametrize("bug", [TypeError, AttributeError, KeyError, RuntimeError])
@pytest.mark.parametrize("place", ["sagefm.data._fields.check_graph", "sagefm.data._reading.possibly_duplicated_names"])
def test_a_corpus_does_not_skip_a_section_for_a_bug(folder, monkeypatch, place, bug, on_error):
    def fail(*args: object) -> None:
        raise bug("a bug")

    monkeypatch.setattr(place, fail)
    with pytest.raises(bug, match="a bug") as raised:
        Corpus(folder, on_error=on_error)
    assert not isinstance(raised.value, SECTION_ERRORS)
