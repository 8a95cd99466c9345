"""What is known about a section without reading it again: counts, neighbour graph and checksum, cached on disk."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from sagefm.data import SetupKeys, checked_totals, checksum_of, graph_of, read_section, stamp_of

FORMAT = 1
_ARRAYS = ("genes", "gene_totals", "depths")


@dataclass
class SectionRecord:
    """One section in the index.

    Parameters
    ----------
    path, stamp, sha256
        The file, its size in bytes and time of last change in nanoseconds, and its checksum.
    graph_kind
        Where the neighbour graph comes from, in a line.
    genes, gene_totals
        Names of the genes and the total counts of each, (genes,).
    depths
        Library sizes of the spots with counts, (spots,).
    graph
        Neighbour graph, (spots, spots).
    """

    path: Path
    stamp: tuple[int, int]
    sha256: str
    graph_kind: str
    genes: np.ndarray
    gene_totals: np.ndarray
    depths: np.ndarray
    graph: sp.csr_matrix


def record_of(path: Path, keys: SetupKeys, folder: Path | None) -> SectionRecord:
    """Return the record of a section, from the cache in `folder` if the file has not changed since."""
    if folder is None:
        return _make(path, keys)
    digest = hashlib.sha256(json.dumps([str(path.absolute()), asdict(keys)]).encode()).hexdigest()
    file = folder / f"{path.stem}-{digest[:12]}.npz"
    record = load_record(file, path)
    if record is None:
        record = _make(path, keys)
        _save(record, file)
    return record


def _make(path: Path, keys: SetupKeys) -> SectionRecord:
    stamp = stamp_of(path)
    adata = read_section(path, keys)
    depths, (gene_totals,) = checked_totals(adata.X, "the matrix of counts")
    graph, kind = graph_of(adata, keys)
    names = adata.var_names.to_numpy(dtype=str)
    return SectionRecord(path, stamp, checksum_of(path), kind, names, gene_totals, depths, graph)


def _save(record: SectionRecord, file: Path) -> None:
    """Write to a temporary file, then rename it: an interrupted call leaves no incomplete record."""
    file.parent.mkdir(parents=True, exist_ok=True)
    size, modified = record.stamp
    about = {"format": FORMAT, "size": size, "modified": modified, "sha256": record.sha256}
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    arrays |= {"graph_indices": record.graph.indices, "graph_indptr": record.graph.indptr}
    temporary = file.with_name(f".{os.getpid()}-{file.name}")
    np.savez_compressed(temporary, about=json.dumps({**about, "graph_kind": record.graph_kind}), **arrays)
    os.replace(temporary, file)


def load_record(file: Path, path: Path) -> SectionRecord | None:
    """Read a record; return None if there is none, if it is damaged, or if the section has changed."""
    stamp = stamp_of(path)
    try:
        with np.load(file) as arrays:
            about = json.loads(str(arrays["about"]))
            if (about["format"], about["size"], about["modified"]) != (FORMAT, *stamp):
                return None
            indices, indptr = arrays["graph_indices"], arrays["graph_indptr"]
            graph = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), 2 * [len(indptr) - 1])
            totals = {name: arrays[name] for name in _ARRAYS}
            return SectionRecord(path, stamp, about["sha256"], about["graph_kind"], graph=graph, **totals)
    except Exception:  # noqa: BLE001 -- a damaged archive can raise anything; the section is then indexed again
        return None
