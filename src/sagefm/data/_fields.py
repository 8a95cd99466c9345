"""What scvi-tools registers of an AnnData for SAGEFM: counts, sections and the neighbour graph, each checked."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField, LayerField

from sagefm._errors import MissingKeyError, refuse_unknown
from sagefm._logging import logger
from sagefm.data._advice import warn_of_other_features, warn_of_unmeasured, where_counts_are
from sagefm.data._counts import checked_totals, computed, looks_like_counts
from sagefm.data._genes import FEW_GENES, MIN_COVERAGE, gene_names, match_genes, refuse_duplicates
from sagefm.data._graph import KINDS, GraphKind, build_graph, check_graph
from sagefm.data._section_columns import section_columns, warn_outside_tissue
from sagefm.data._selection import obs_column


@dataclass(frozen=True)
class SetupKeys:
    """Where an AnnData holds what the model uses; see :meth:`sagefm.SAGEFM.setup_anndata`."""

    layer: str | None = None
    sample_key: str | None = None
    spatial_key: str = "spatial"
    neighbors_key: str = "spatial"
    gene_symbols: str | None = None

    @property
    def graph_key(self) -> str:
        """Key of the neighbour graph in `obsp`."""
        return f"{self.neighbors_key}_connectivities"

    def sections(self, adata: AnnData) -> np.ndarray:
        """Return the section of every spot, (n,); the same for all spots without `sample_key`."""
        if self.sample_key is None:
            return np.full(adata.n_obs, "all", dtype=object)
        sections = obs_column(adata, self.sample_key, "sample_key")
        if n_missing := int(sections.isna().sum()):
            raise ValueError(f"obs[{self.sample_key!r}] is missing for {n_missing} spots; every spot needs a section.")
        return sections.astype(str).to_numpy()

    def likely_sections(self, adata: AnnData) -> np.ndarray:
        """Return the section of every spot, (n,); without `sample_key` by the column of `obs` with most sections."""
        columns = {} if self.sample_key is not None else section_columns(adata)
        if not columns:
            return self.sections(adata)
        column = max(columns, key=lambda name: columns[name].max())
        return obs_column(adata, column, "sample_key").astype(str).to_numpy()

    def build_graph(self, adata: AnnData, kind: GraphKind = "auto") -> str:
        """Write the neighbour graph to `obsp`, built from the coordinates; return its description."""
        sections = self.sections(adata)
        return build_graph(adata, sections, spatial_key=self.spatial_key, key_added=self.neighbors_key, kind=kind)

    def graph(self, adata: AnnData) -> sp.csr_matrix:
        """Return the neighbour graph, checked and clean, (n, n)."""
        if self.graph_key not in adata.obsp:
            raise MissingKeyError(
                f"obsp has no {self.graph_key!r}, which was there at setup; found {sorted(adata.obsp)}. Put it back, "
                "or let `setup_anndata` build it."
            )
        return check_graph(computed(adata.obsp[self.graph_key]), self.sections(adata), self.graph_key)

    def registered_fields(self, graph: GraphKind = "auto") -> list[BaseAnnDataField]:
        """Return all fields that the model registers; a missing neighbour graph is built as `graph` says."""
        return [SectionField(self, self.sample_key), CountsField(self), GraphField(self, graph)]


def refuse_unknown_arguments(arguments: dict[str, Any]) -> None:
    """Raise for unknown arguments of a setup; scvi-tools' own come with `source_registry`."""
    if arguments and "source_registry" not in arguments:
        known = ", ".join([*(field.name for field in fields(SetupKeys)), "graph"])
        raise TypeError(f"The setup has no argument {next(iter(arguments))!r}; expected one of {known}.")


class CountsField(LayerField):
    """Raw counts, with the names of the genes and the constants of the normalisation."""

    TARGET_DEPTH_KEY, PROFILE_KEY, WHOLE_KEY = "target_depth", "profile", "whole_numbers"

    def __init__(self, keys: SetupKeys) -> None:
        super().__init__(REGISTRY_KEYS.X_KEY, keys.layer, is_count_data=False, correct_data_format=False)
        self._keys = keys

    @classmethod
    def state(cls, genes: pd.Index, n_obs: int, target_depth: float, profile: np.ndarray) -> dict[str, Any]:
        """Return what the registry holds of the counts; `profile` is the share of each gene in all counts."""
        return {
            cls.N_OBS_KEY: n_obs,
            cls.N_VARS_KEY: len(genes),
            cls.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
            cls.TARGET_DEPTH_KEY: target_depth,
            cls.PROFILE_KEY: profile,
        }

    def validate_field(self, adata: AnnData) -> None:
        """Check that the layer exists and that the names of spots and genes are unique."""
        layers = [key for key in adata.layers if key is not None]  # from anndata 0.13 on, None stands for X there
        if self.attr_key is not None and self.attr_key not in layers:
            raise MissingKeyError(f"layer={self.attr_key!r} is not in layers; found {layers}.")
        if self.attr_key is None and adata.X is None:
            raise ValueError(f"The AnnData has no X; {where_counts_are(adata, None)}. Its layers are {layers}.")
        gene_names(adata, self._keys.gene_symbols)
        refuse_duplicates(adata.obs_names, "spot names in obs_names", "adata.obs_names_make_unique()")

    def register_field(self, adata: AnnData) -> dict:
        """Check every count, and record the genes, the median library size and the share of each gene."""
        state = self._checked_state(adata)
        warn_of_other_features(adata, state[self.PROFILE_KEY])
        return state

    def _checked_state(self, adata: AnnData) -> dict:
        self.validate_field(adata)
        counts, names = self.get_field_data(adata), gene_names(adata, self._keys.gene_symbols)
        where = "X" if self.attr_key is None else f"layers[{self.attr_key!r}]"
        sections, numbers = np.unique(self._keys.likely_sections(adata), return_inverse=True)
        advice = partial(where_counts_are, adata, self.attr_key)
        library_sizes, totals = checked_totals(counts, where, sections=numbers, advice=advice)
        empty = np.flatnonzero(library_sizes == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} of {adata.n_obs} spots have no counts in {where}, for example "
                f"{adata.obs_names[empty[0]]!r}. Remove them with `scanpy.pp.filter_cells(adata, min_counts=1)`."
            )
        warn_of_unmeasured(totals, sections, names)
        profile = (totals.sum(axis=0) / totals.sum()).astype(np.float32)
        state = self.state(names, adata.n_obs, float(np.median(library_sizes)), profile)
        return state | {self.WHOLE_KEY: looks_like_counts(counts)}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check another AnnData against the model's genes; the model's genes and constants stay."""
        genes = pd.Index(state_registry[self.COLUMN_NAMES_KEY])
        n_known = int((match_genes(genes, gene_names(adata_target, self._keys.gene_symbols)) >= 0).sum())
        if n_known < len(genes):
            logger.info(f"{n_known} of the model's {len(genes)} genes ({n_known / len(genes):.1%}) are in the section.")
        if n_known < min(FEW_GENES, MIN_COVERAGE * len(genes)):
            logger.warning(
                f"With {n_known} known genes, expect less than with a whole transcriptome: compare "
                "`get_masked_recovery` with the mean of the neighbours and with a model trained on the section."
            )
        own = self._checked_state(adata_target)
        return {**state_registry, self.N_OBS_KEY: own[self.N_OBS_KEY], self.WHOLE_KEY: own[self.WHOLE_KEY]}


class _PlainField(BaseAnnDataField):
    """A field that is checked in the same way for the first AnnData and for later ones."""

    attr_key: str | None = None
    is_empty = False

    def __init__(self, keys: SetupKeys, attr_key: str | None) -> None:
        super().__init__()
        self.keys, self.attr_key, self.is_empty = keys, attr_key, attr_key is None

    def register_field(self, adata: AnnData) -> dict:
        """Check the field; it stays where it is, so AnnData subsets and reorders it."""
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check the field of another AnnData."""
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Count nothing."""
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        """Show no table."""


class SectionField(_PlainField):
    """The obs column that distinguishes sections. The network never sees it, so a new section is never unknown."""

    registry_key, attr_name = "section", "obs"

    def validate_field(self, adata: AnnData) -> None:
        """Check that the column exists and is complete."""
        self.keys.sections(adata)

    def register_field(self, adata: AnnData) -> dict:
        """Record the sections; those of another AnnData may be new."""
        return {"sections": np.unique(self.keys.sections(adata))}

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Count the sections."""
        return {"n_sections": len(state_registry.get("sections", ["all"]))}


class GraphField(_PlainField):
    """The neighbour graph in obsp, built with squidpy where it is missing."""

    registry_key, attr_name = "graph", "obsp"

    def __init__(self, keys: SetupKeys, kind: GraphKind) -> None:
        super().__init__(keys, keys.graph_key)
        refuse_unknown("graph", kind, KINDS)
        self._kind: GraphKind = kind

    def validate_field(self, adata: AnnData) -> None:
        """Build the graph if there is none, then check it."""
        if self.attr_key not in adata.obsp:
            description = self.keys.build_graph(adata, self._kind)
            logger.info(f"Built the neighbour graph obsp[{self.attr_key!r}]: {description}.")
        if n_isolated := int((np.diff(self.keys.graph(adata).indptr) == 0).sum()):
            logger.info(
                f"{n_isolated} of {adata.n_obs} spots have no neighbours; each is kept as its own neighbourhood."
            )

    def register_field(self, adata: AnnData) -> dict:
        """Build or check the graph; log if there is one although a kind of graph was requested."""
        if self._kind != "auto" and self.attr_key in adata.obsp:
            logger.info(
                f"obsp[{self.attr_key!r}] exists and is used as it is; delete it to build one with "
                f"graph={self._kind!r}."
            )
        return self.transfer_field({}, adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Build or check the graph of another AnnData."""
        warn_outside_tissue(adata_target)
        return super().register_field(adata_target)
