"""The index of a corpus: it saves reading, notices changes, and survives damage."""

import numpy as np
import scipy.sparse as sp

from sagefm.data import SetupKeys, read_section
from sagefm.pretraining import Corpus
from sagefm.pretraining._index import load_record, record_of


def test_index_saves_reading_and_notices_changes(folder, sections, monkeypatch):
    index = folder / "index"
    first = Corpus(folder, index=index)
    read = []
    monkeypatch.setattr(
        "sagefm.pretraining._index.read_section", lambda path, keys: read.append(path.stem) or read_section(path, keys)
    )
    second = Corpus(folder, index=index)
    assert read == [] and second.table.equals(first.table)
    sections[2][:50].write_h5ad(folder / "s2.h5ad")
    third = Corpus(folder, index=index)
    assert read == ["s2"] and third.sizes[2] == 50
    next(index.glob("s1-*.npz")).write_bytes(b"damaged")
    Corpus(folder, index=index)
    assert read == ["s2", "s1"]
    Corpus(folder, index=index, spatial_key="spatial", neighbors_key="other")
    assert len(read) == 6  # other keys, other index


def test_record_from_the_cache_is_the_record_that_was_saved(folder):
    first, again = (record_of(folder / "s0.h5ad", SetupKeys(), folder / "index") for _ in range(2))
    assert (again.path, again.stamp, again.sha256) == (first.path, first.stamp, first.sha256)
    assert again.graph_kind == first.graph_kind and (again.graph != first.graph).nnz == 0
    for name in ("genes", "gene_totals", "depths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_graph_in_the_file_is_kept(sections, tmp_path):
    section = sections[0].copy()
    graph = sp.csr_matrix((np.ones(section.n_obs), (np.arange(section.n_obs), np.roll(np.arange(section.n_obs), 1))))
    section.obsp["spatial_connectivities"] = graph
    section.write_h5ad(tmp_path / "s.h5ad")
    record = record_of(tmp_path / "s.h5ad", SetupKeys(), None)
    assert (record.graph != graph).nnz == 0 and record.graph_kind == "as in the file"
    assert len(record.depths) == section.n_obs


def test_damaged_index_is_made_again(folder, tmp_path):
    index = tmp_path / "index"
    table = Corpus(folder, index=index).table
    for file in index.iterdir():
        whole, section = file.read_bytes(), folder / f"{file.name.partition('-')[0]}.h5ad"
        directory = whole.index(b"PK\x01\x02")  # of the archive: each of its bytes can break reading in its own way
        for place in [*range(0, directory, 97), *range(directory, len(whole))]:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
            load_record(file, section)  # returns a record or None, and never raises
    assert Corpus(folder, index=index).table.equals(table)
