"""The spots of one AnnData or file: counts, log-normalised expression and neighbourhood means, by model gene."""

import copy
from collections.abc import Iterable, Iterator
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

from sagefm.data._counts import CHUNK, counts_of_genes, in_memory, looks_like_counts
from sagefm.data._fields import CountsField, SetupKeys
from sagefm.data._genes import gene_names, match_genes
from sagefm.data._graph import neighbor_mean_operator
from sagefm.data._mudata import registered_adata
from sagefm.data._normalization import Normalization
from sagefm.data._registry import counts_state, genes_of, keys_of
from sagefm.data._units import GeneMoments, SectionUnits, Units, section_units


class Mask(Protocol):
    """Anything that returns which entries are masked (True), boolean (rows, genes of the model), such as an array."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class Spots:
    """Spots with their counts, sections and neighbour graph.

    Parameters
    ----------
    counts
        (spots, genes of the section): a matrix in memory or backed by a file.
    graph
        Checked neighbour graph, (spots, spots).
    sections
        Section of each spot, (spots,).
    genes
        The model's genes.
    normalization
        The model's normalisation.
    columns
        Column of each gene in the section, or -1 for a gene missing from its panel, (genes,).
    masked
        Genes to mask in every spot, boolean (genes,): their counts enter neither the input nor any library size.

    Attributes
    ----------
    known, masked
        Genes in the panel, and genes that are masked in every spot, those missing from the panel included, (genes,).
    n_obs, n_neighbors
        Number of spots, and of the neighbours of each spot, (spots, 1).
    """

    def __init__(
        self,
        counts: Any,
        graph: sp.csr_matrix,
        sections: np.ndarray,
        genes: pd.Index,
        normalization: Normalization,
        *,
        columns: np.ndarray,
        masked: np.ndarray | None = None,
    ) -> None:
        self._counts, self.columns = counts_of_genes(counts, columns), columns
        self.graph, self.genes, self.normalization = graph, genes, normalization
        self.sections, self._section_numbers = sections, np.unique(sections, return_inverse=True)[1]
        self.known = columns >= 0
        self.masked = ~self.known if masked is None else ~self.known | masked
        self.n_obs = graph.shape[0]
        self.n_neighbors = np.diff(graph.indptr).astype(np.float32)[:, None]

    @cached_property
    def mean_operator(self) -> sp.csr_matrix:
        """Row-stochastic (n, n) matrix that averages over the neighbours."""
        return neighbor_mean_operator(self.graph)

    @cached_property
    def _normalization_on_cpu(self) -> Normalization:
        """The normalisation where the counts are: profile and depth are copied from the network's device once."""
        return copy.deepcopy(self.normalization).cpu()

    @cached_property
    def _logged(self) -> sp.csr_matrix | None:
        return self._normalization_on_cpu.log_sparse(self._counts, self.masked) if sp.issparse(self._counts) else None

    def counts(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return counts, float32 (rows, genes), also those of masked genes; zero for genes missing from the panel."""
        return self._counts[rows].astype(np.float32, copy=False)

    def library_sizes(self) -> np.ndarray:
        """Return the counts of every spot over the model's genes, (n,)."""
        parts = (self.counts(rows).sum(axis=1) for rows in chunks(np.arange(self.n_obs), CHUNK))
        return np.concatenate([np.asarray(part).ravel() for part in parts])

    def log(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return counts on the log scale, (rows, genes), zero where masked."""
        if self._logged is not None:
            return self._logged[rows]
        return self._normalization_on_cpu.log_sparse(self.counts(rows), self.masked)

    def neighborhood_means(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean over each spot's neighbours on the log scale, (rows, genes)."""
        operator = self.mean_operator[rows]
        if self._logged is not None:
            return sparse_matmul_to_dense(operator, self._logged)
        needed = np.unique(operator.indices)
        return sparse_matmul_to_dense(operator[:, needed], self.log(needed))

    def neighborhood_means_without(self, rows: np.ndarray, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over the neighbours whose entry is not in `mask`, and their number, each (rows, genes).

        It is zero where no neighbour is left.
        """
        edges = self.graph[rows].astype(np.float32)
        needed = np.unique(edges.indices)
        edges, masked = edges[:, needed], mask[needed] | self.masked
        n = edges @ (~masked).astype(np.float32)
        return edges @ self._log_without(needed, masked) / np.maximum(n, 1), n

    def _log_without(self, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return log-normalised expression without the entries in `mask`, boolean (rows, genes), which are zero."""
        counts = torch.from_numpy(self.counts(rows).toarray())
        return self._normalization_on_cpu.log_dense(counts, torch.from_numpy(mask)).numpy()

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
        """Return the network's input for spots without a mask of their own, (rows, genes)."""
        return units.standardize(torch.from_numpy(self.log(rows).toarray()), torch.from_numpy(self.masked))

    def gene_moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene on the log scale over `rows`, each (genes,)."""
        return gene_moments([(self, rows)], len(self.genes))


def gene_moments(samples: Iterable[tuple[Spots, np.ndarray]], n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of every gene on the log scale, each (genes,), over rows of several spots.

    A gene that is masked in some of them counts only where it is not.
    """
    sums = GeneMoments(1, n_genes)
    for spots, rows in samples:
        for piece in chunks(rows, CHUNK):
            sums.add(np.zeros(len(piece), dtype=int), spots.log(piece), spots.masked)
    mean, variance = sums.mean_and_variance()
    return mean[0], np.sqrt(variance[0])


def chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut `rows` into pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def registered_spots(manager: AnnDataManager, normalization: Normalization, masked: np.ndarray | None = None) -> Spots:
    """Return the spots of the AnnData, or of the modality of a MuData, that is registered with `manager`."""
    adata, registry = registered_adata(manager), manager.registry
    keys, genes = keys_of(registry), genes_of(registry)
    counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    _refuse_changed(counts, registry)
    columns = match_genes(genes, gene_names(adata, keys.gene_symbols))
    graph, sections = keys.graph(adata), keys.sections(adata)
    return Spots(counts, graph, sections, genes, normalization, columns=columns, masked=masked)


def section_spots(
    section: AnnData, graph: sp.csr_matrix, keys: SetupKeys, genes: pd.Index, normalization: Normalization
) -> Spots:
    """Return the spots of a section from :func:`read_section`, without scvi-tools' registration."""
    columns = match_genes(genes, section.var_names)
    return Spots(section.X, graph, keys.sections(section), genes, normalization, columns=columns)


def _refuse_changed(counts: Any, registry: dict[str, Any]) -> None:
    """Raise if counts in memory were whole numbers at setup and no longer are: they would be normalised twice."""
    was_whole = counts_state(registry).get(CountsField.WHOLE_KEY, False)
    if was_whole and in_memory(counts) and not looks_like_counts(counts):
        raise ValueError(
            "The counts have changed since setup: they were whole numbers and no longer are. If "
            "`scanpy.pp.normalize_total` or `log1p` changed them in place, keep the raw counts in a layer, pass it as "
            "`layer`, and set up again."
        )
