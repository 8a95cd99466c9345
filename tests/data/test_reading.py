"""Reading sections: a damaged file is an error that names it, and a bug in our own code is not."""

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

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
    assert list(read.obs) == ["sample"] and list(read.var) == [] and set(read.obsm) == {"spatial"} and not read.uns
    assert np.array_equal(read.X.toarray(), adata.X.toarray())


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
