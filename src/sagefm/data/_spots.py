"""The spots of one AnnData or file: counts, their log scale and neighbourhood means, genes in the model's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense

from sagefm.data._counts import CHUNK, BackedCounts, in_memory, in_model_order, looks_like_counts, sum_duplicates
from sagefm.data._fields import GRAPH_KEY, SECTION_KEY, CountsField
from sagefm.data._genes import gene_names, match_genes
from sagefm.data._graph import neighbor_mean_operator
from sagefm.data._mudata import adata_and_fields
from sagefm.data._normalization import Normalization
from sagefm.data._units import GeneMoments, SectionUnits, Units, section_units


class Mask(Protocol):
    """Which entries are masked: True, boolean (rows, genes of the model), for `rows`; an array is one, too."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class Spots:
    """Spots with their counts, sections and neighbour graph.

    Parameters
    ----------
    counts
        (spots, genes of the model): CSR in memory, or :class:`BackedCounts`.
    graph
        Clean neighbour graph, (spots, spots).
    sections
        Section of each spot, (spots,).
    genes
        The model's genes.
    normalization
        The model's normalisation.
    columns
        Column of each gene in the section, or -1 where its panel lacks it, (genes,).
    masked
        Genes to mask in every spot, boolean (genes,): their counts are neither input nor part of any library size.
    """

    def __init__(
        self,
        counts: sp.csr_matrix | BackedCounts,
        graph: sp.csr_matrix,
        sections: np.ndarray,
        genes: pd.Index,
        normalization: Normalization,
        *,
        columns: np.ndarray,
        masked: np.ndarray | None = None,
    ) -> None:
        self._counts, self.graph, self.sections = counts, graph, sections
        self.genes, self.normalization, self.columns = genes, normalization, columns
        self.known = columns >= 0
        self.masked = ~self.known if masked is None else ~self.known | masked

    @property
    def n_obs(self) -> int:
        """Number of spots."""
        return self.graph.shape[0]

    @cached_property
    def n_neighbors(self) -> np.ndarray:
        """Number of neighbours of every spot, (n, 1)."""
        return np.diff(self.graph.indptr).astype(np.float32)[:, None]

    @cached_property
    def mean_operator(self) -> sp.csr_matrix:
        """Row-stochastic (n, n) matrix that takes the mean over the neighbours."""
        return neighbor_mean_operator(self.graph)

    @cached_property
    def _logged(self) -> sp.csr_matrix | None:
        return self.normalization.log_sparse(self._counts, self.masked) if sp.issparse(self._counts) else None

    def counts(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return counts, float32 (rows, genes): those of masked genes as well, but zero for genes not in the panel."""
        return self._counts[rows].astype(np.float32, copy=False)

    def log(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return counts on the log scale, (rows, genes), zero where masked."""
        if self._logged is not None:
            return self._logged[rows]
        return self.normalization.log_sparse(self.counts(rows), self.masked)

    def neighborhood_means(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean over each spot's neighbours on the log scale, (rows, genes)."""
        operator = self.mean_operator[rows]
        if self._logged is not None:
            return sparse_matmul_to_dense(operator, self._logged)
        needed = np.unique(operator.indices)
        return sparse_matmul_to_dense(operator[:, needed], self.log(needed))

    def neighborhood_means_without(self, rows: np.ndarray, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over the neighbours whose entry is not in `mask`, and their number, each (rows, genes).

        The mean over no neighbour is zero.
        """
        edges = self.graph[rows].astype(np.float32)
        needed = np.unique(edges.indices)
        edges, masked = edges[:, needed], mask[needed] | self.masked
        n = edges @ (~masked).astype(np.float32)
        return edges @ self._log_without(needed, masked) / np.maximum(n, 1), n

    def _log_without(self, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return counts on the log scale, zero where `mask`, boolean (rows, genes), and not part of library sizes."""
        counts = torch.from_numpy(self.counts(rows).toarray())
        return self.normalization.log_dense(counts, torch.from_numpy(mask)).numpy()

    @cached_property
    def _section_numbers(self) -> np.ndarray:
        return np.unique(self.sections, return_inverse=True)[1]

    @cached_property
    def units(self) -> SectionUnits:
        """Mean and scale of the genes in each section."""
        pieces = ((rows, self.log(rows), self.masked) for rows in chunks(np.arange(self.n_obs), CHUNK))
        return section_units(self.normalization, self._section_numbers, pieces)

    def units_without(self, mask: Mask) -> SectionUnits:
        """Return mean and scale of the genes in each section over the entries that are not in `mask`."""

        def pieces() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for rows in chunks(np.arange(self.n_obs), CHUNK):
                masked = mask[rows] | self.masked
                yield rows, self._log_without(rows, masked), masked

        return section_units(self.normalization, self._section_numbers, pieces())

    def inputs(self, rows: np.ndarray, units: Units) -> torch.Tensor:
        """Return the network's input for unmasked spots, (rows, genes)."""
        return units.standardize(torch.from_numpy(self.log(rows).toarray()), torch.from_numpy(self.masked))

    def add_to(self, sums: GeneMoments, rows: np.ndarray) -> None:
        """Add the log values of `rows` to the sums of the first section."""
        for piece in chunks(rows, CHUNK):
            sums.add(np.zeros(len(piece), dtype=int), self.log(piece), self.masked)

    def gene_moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene on the log scale over `rows`, each (genes,)."""
        sums = GeneMoments(1, len(self.genes))
        self.add_to(sums, rows)
        return sums.of_first()


def chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut `rows` into pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def registered_spots(manager: AnnDataManager, normalization: Normalization, masked: np.ndarray | None = None) -> Spots:
    """Return the spots of the AnnData, or of the modality of a MuData, that is registered with `manager`.

    Counts in memory are put in the model's order once; backed counts are read where they are needed.
    """
    adata, modality_fields = adata_and_fields(manager)
    fields = {field.registry_key: field for field in modality_fields}
    state, source = manager.get_state_registry(REGISTRY_KEYS.X_KEY), manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    genes = pd.Index(state[CountsField.COLUMN_NAMES_KEY])
    sections, graph = fields[SECTION_KEY].sections(adata), fields[GRAPH_KEY].clean_graph(adata)
    _refuse_normalized(source, state)
    columns = match_genes(genes, gene_names(adata, manager.registry["setup_args"].get("gene_symbols")))
    counts = _in_memory(source, columns) if in_memory(source) else BackedCounts(source, columns)
    return Spots(counts, graph, sections, genes, normalization, columns=columns, masked=masked)


def section_spots(
    section: AnnData, graph: sp.csr_matrix, sections: np.ndarray, genes: pd.Index, normalization: Normalization
) -> Spots:
    """Return the spots of a section that was read and checked, counts in `X`, without scvi-tools' registration."""
    columns = match_genes(genes, section.var_names)
    return Spots(_in_memory(section.X, columns), graph, sections, genes, normalization, columns=columns)


def _in_memory(source: Any, columns: np.ndarray) -> sp.csr_matrix:
    return in_model_order(sum_duplicates(sp.csr_matrix(source)), columns)


def _refuse_normalized(counts: Any, state: Mapping[str, Any]) -> None:
    """Raise if counts in memory were whole numbers at setup and are no longer: they would be normalised twice."""
    if in_memory(counts) and state.get(CountsField.WHOLE_KEY, False) and not looks_like_counts(counts):
        raise ValueError(
            "The counts have changed since the setup: they were whole numbers and are not any more. Where "
            "`scanpy.pp.normalize_total` or `log1p` ran on them in place, keep the raw counts in a layer, name it with "
            "`layer`, and set up again."
        )
