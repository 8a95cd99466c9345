"""What the model reads of one AnnData: counts, their log scale and neighbourhood means, as arrays and as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense
from torch.utils.data import Dataset, Subset

from sagefm._counts import CHUNK, begin_whole, in_memory, one_value_an_entry, read_rows
from sagefm._fields import GRAPH_KEY, SECTION_KEY, CountsField
from sagefm._genes import gene_names, match_genes
from sagefm._graph import neighbor_mean_operator
from sagefm._mudata import unwrapped
from sagefm._normalization import Normalization
from sagefm._units import GeneUnits, Sums, Units, gene_units

NEIGHBORS_KEY, N_NEIGHBORS_KEY, KNOWN_KEY = "neighbors", "n_neighbors", "known"
MEAN_KEY, SCALE_KEY = "gene_mean", "gene_scale"


def normalization_of(registry: dict, method: Literal["size", "none"]) -> Normalization:
    """Make the normalisation whose constants were noted when the counts were registered."""
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    return Normalization(method, state[CountsField.TARGET_DEPTH_KEY], state[CountsField.PROFILE_KEY])


def _refuse_normalized(counts: Any, state: Mapping[str, Any]) -> None:
    """Raise if counts in memory were whole numbers at the setup and are no longer: they would be normalised twice."""
    if in_memory(counts) and state.get(CountsField.WHOLE_KEY, False) and not begin_whole(counts):
        raise ValueError(
            "The counts have changed since the setup: they were whole numbers and are not any more. Where "
            "`scanpy.pp.normalize_total` or `log1p` ran on them in place, keep the raw counts in a layer, name it with "
            "`layer`, and set up again."
        )


class Spots:
    """The spots of one AnnData, genes in the model's order.

    Counts in memory are put in order and on the log scale once; backed counts are read where they are needed.

    Parameters
    ----------
    manager
        Manager that the AnnData is registered with.
    normalization
        The model's normalisation.
    hidden
        Genes to hide from every spot, boolean (genes,): their counts are neither seen nor part of any library size.
    """

    def __init__(self, manager: AnnDataManager, normalization: Normalization, hidden: np.ndarray | None = None) -> None:
        self.adata, modality_fields = unwrapped(manager)
        fields = {field.registry_key: field for field in modality_fields}
        self.genes = pd.Index(manager.get_state_registry(REGISTRY_KEYS.X_KEY)[CountsField.COLUMN_NAMES_KEY])
        self.normalization = normalization
        self.sections: np.ndarray = fields[SECTION_KEY].sections(self.adata)
        self.graph: sp.csr_matrix = fields[GRAPH_KEY].clean_graph(self.adata)
        self._source = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        _refuse_normalized(self._source, manager.get_state_registry(REGISTRY_KEYS.X_KEY))
        self.columns = match_genes(
            self.genes, gene_names(self.adata, manager.registry["setup_args"].get("gene_symbols"))
        )
        self.known = self.columns >= 0
        self.visible = self.known if hidden is None else self.known & ~hidden

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
    def _counts(self) -> sp.csr_matrix | None:
        return (
            self._in_model_order(one_value_an_entry(sp.csr_matrix(self._source))) if in_memory(self._source) else None
        )

    @cached_property
    def _logged(self) -> sp.csr_matrix | None:
        return None if self._counts is None else self.normalization.log(self._counts, self.visible)

    def counts(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return counts, (rows, genes); genes outside the panel are zero, hidden genes are not."""
        if self._counts is not None:
            return self._counts[rows].astype(np.float32, copy=False)
        return self._in_model_order(read_rows(self._source, rows))

    def log(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return the visible counts on the log scale, (rows, genes)."""
        if self._logged is not None:
            return self._logged[rows]
        return self.normalization.log(self.counts(rows), self.visible)

    def neighborhood_means(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean over each spot's neighbours on the log scale, (rows, genes)."""
        operator = self.mean_operator[rows]
        if self._logged is not None:
            return sparse_matmul_to_dense(operator, self._logged)
        needed = np.unique(operator.indices)
        return sparse_matmul_to_dense(operator[:, needed], self.log(needed))

    def neighborhood_means_without(
        self, rows: np.ndarray, masks: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over those neighbours that `masks`, (rows, genes) for rows, leaves, and how many these are.

        Each is (rows, genes); the mean over no neighbour is zero.
        """
        edges = self.graph[rows].astype(np.float32)
        needed = np.unique(edges.indices)
        edges, left = edges[:, needed], ~masks(needed) & self.visible
        n = edges @ left.astype(np.float32)
        return edges @ self.log_where(needed, left) / np.maximum(n, 1), n

    def log_where(self, rows: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Return counts where `visible`, boolean (rows, genes), on the log scale that these tell; zero elsewhere."""
        counts = torch.from_numpy(self.counts(rows).toarray())
        return self.normalization.log_dense(counts, torch.from_numpy(visible)).numpy()

    @cached_property
    def _section_numbers(self) -> np.ndarray:
        return np.unique(self.sections, return_inverse=True)[1]

    @cached_property
    def units(self) -> GeneUnits:
        """In which units the genes of each section are read and predicted."""
        return gene_units(
            self.normalization,
            self._section_numbers,
            ((rows, self.log(rows), self.visible) for rows in self.chunks(np.arange(self.n_obs), CHUNK)),
        )

    def units_without(self, masks: Callable[[np.ndarray], np.ndarray]) -> GeneUnits:
        """Return the units that the entries tell which are not masked; `masks` gives (rows, genes) for rows."""

        def pieces() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for rows in self.chunks(np.arange(self.n_obs), CHUNK):
                visible = ~masks(rows) & self.visible
                yield rows, self.log_where(rows, visible), visible

        return gene_units(self.normalization, self._section_numbers, pieces())

    def inputs(self, rows: np.ndarray, units: Units) -> torch.Tensor:
        """Return what the network reads of unmasked spots, (rows, genes)."""
        return units.standardize(torch.from_numpy(self.log(rows).toarray()), torch.from_numpy(self.visible))

    def chunks(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Cut `rows` into pieces of at most `size`."""
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def add_to(self, sums: Sums, rows: np.ndarray) -> None:
        """Add the visible log values of `rows` to the sums of the first section."""
        for piece in self.chunks(rows, CHUNK):
            sums.add(np.zeros(len(piece), dtype=int), self.log(piece), self.visible)

    def gene_moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene on the log scale over `rows`, each (genes,)."""
        sums = Sums(1, len(self.genes))
        self.add_to(sums, rows)
        return sums.of_first()

    def create_torch_dataset(self, indices: Sequence[int] | None = None, **kwargs: object) -> Subset:
        """Answer scvi-tools' `AnnDataLoader`, which asks its manager for a data set and for nothing else."""
        return Subset(NeighborhoodDataset(self), range(self.n_obs) if indices is None else indices)

    def _in_model_order(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        n_genes = counts.shape[1]
        if n_genes == len(self.columns) and (self.columns == np.arange(n_genes)).all():
            return counts
        place = np.full(n_genes, -1, dtype=counts.indices.dtype)
        place[self.columns[self.known]] = np.flatnonzero(self.known)
        places = place[counts.indices]
        kept = places >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
        return sp.csr_matrix((counts.data[kept], places[kept], ends), shape=(counts.shape[0], len(self.columns)))


class NeighborhoodDataset(Dataset):
    """Batches of centres and the means of their neighbours, dense only a batch at a time."""

    def __init__(self, spots: Spots) -> None:
        self._spots = spots

    def __len__(self) -> int:
        return self._spots.n_obs

    def __getitem__(self, rows: list[int]) -> dict[str, np.ndarray | torch.Tensor]:
        index = np.atleast_1d(np.asarray(rows))
        batch = {
            REGISTRY_KEYS.X_KEY: self._spots.counts(index).toarray(),
            NEIGHBORS_KEY: self._spots.neighborhood_means(index),
            N_NEIGHBORS_KEY: self._spots.n_neighbors[index],
            KNOWN_KEY: torch.from_numpy(self._spots.known[None].astype(np.float32)),
        }
        units = self._spots.units.of(index)
        if units.mean is not None and units.scale is not None:
            batch |= {MEAN_KEY: units.mean, SCALE_KEY: units.scale}
        return batch
