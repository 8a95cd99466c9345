"""What is known of a section without reading it again: spots, genes, totals, graph and checksum, cached on disk."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from sagefm.data import SetupKeys, checked_totals, checksum_of, graph_of, read_section, stamp_of

FORMAT = 1


@dataclass(frozen=True)
class SectionRecord:
    """One section, as the index knows it.

    Parameters
    ----------
    path, size, modified, sha256
        The file, its bytes, the time of its last change in nanoseconds, and its checksum.
    graph_kind
        Where the neighbour graph comes from, in a line.
    genes, gene_totals
        Names of the genes and the counts of each, (genes,).
    depths
        Counts of each spot that has any, (spots,).
    graph
        Neighbour graph, (spots, spots).
    """

    path: Path
    size: int
    modified: int
    sha256: str
    graph_kind: str
    genes: np.ndarray
    gene_totals: np.ndarray
    depths: np.ndarray
    graph: sp.csr_matrix

    @property
    def n_spots(self) -> int:
        """Number of spots with counts."""
        return len(self.depths)


def record_of(path: Path, keys: SetupKeys, folder: Path | None) -> SectionRecord:
    """Return the record of a section, from the cache in `folder` where the file has not changed since."""
    cached = None if folder is None else folder / f"{path.stem}-{_digest(path, keys)}.npz"
    size, modified = stamp_of(path)
    known = None if cached is None else _load(cached, path, size, modified)
    if known is not None:
        return known
    record = _make(path, keys, size, modified)
    if cached is not None:
        _save(record, cached)
    return record


def _digest(path: Path, keys: SetupKeys) -> str:
    return hashlib.sha256(json.dumps([str(path.absolute()), asdict(keys)]).encode()).hexdigest()[:12]


def _make(path: Path, keys: SetupKeys, size: int, modified: int) -> SectionRecord:
    adata = read_section(path, keys)
    depths, gene_totals = checked_totals(adata.X, "the matrix of counts")
    graph, kind = graph_of(adata, keys)
    names = adata.var_names.to_numpy(dtype=str)
    return SectionRecord(path, size, modified, checksum_of(path), kind, names, gene_totals, depths, graph)


def _save(record: SectionRecord, file: Path) -> None:
    """Write aside, then put in place: an interrupted call leaves no half of a record."""
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "size": record.size, "modified": record.modified, "sha256": record.sha256}
    aside = file.with_name(f".{os.getpid()}-{file.name}")
    np.savez_compressed(
        aside,
        about=json.dumps({**about, "graph_kind": record.graph_kind}),
        genes=record.genes,
        gene_totals=record.gene_totals,
        depths=record.depths,
        graph_indices=record.graph.indices,
        graph_indptr=record.graph.indptr,
    )
    os.replace(aside, file)


def _load(file: Path, path: Path, size: int, modified: int) -> SectionRecord | None:
    """Read a record; None where there is none, it is damaged, or the section has changed."""
    try:
        with np.load(file) as arrays:
            about = json.loads(str(arrays["about"]))
            if (about["format"], about["size"], about["modified"]) != (FORMAT, size, modified):
                return None
            indices, indptr = arrays["graph_indices"], arrays["graph_indptr"]
            n_spots = len(indptr) - 1
            graph = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), (n_spots, n_spots))
            totals = {name: arrays[name] for name in ("genes", "gene_totals", "depths")}
    except Exception:  # noqa: BLE001 -- a damaged archive raises what it likes, and indexing anew mends it all
        return None
    return SectionRecord(path, size, modified, about["sha256"], about["graph_kind"], graph=graph, **totals)
