"""What scvi-tools registers of an AnnData for SAGEFM: counts, sections and the neighbour graph, each checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField, LayerField

from sagefm._errors import MissingKeyError
from sagefm._logging import logger
from sagefm.data._counts import checked_totals, looks_like_counts
from sagefm.data._genes import gene_names, match_genes, refuse_duplicates
from sagefm.data._graph import NEAREST_14, build_graph, check_graph
from sagefm.data._selection import obs_column

SECTION_KEY, GRAPH_KEY = "section", "graph"


class CountsField(LayerField):
    """Raw counts, with the genes by name and the constants of the normalisation."""

    TARGET_DEPTH_KEY, PROFILE_KEY, WHOLE_KEY = "target_depth", "profile", "whole_numbers"

    def __init__(self, registry_key: str, layer: str | None, gene_symbols: str | None) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self._gene_symbols = gene_symbols

    def validate_field(self, adata: AnnData) -> None:
        """Check that the layer is there and that spots and genes have names of their own."""
        layers = [key for key in adata.layers if key is not None]  # from anndata 0.13 on, None stands for X there
        if self.attr_key is not None and self.attr_key not in layers:
            raise MissingKeyError(f"layer={self.attr_key!r} is not in layers; there are {layers}.")
        if self.attr_key is None and adata.X is None:
            raise ValueError(f"The AnnData has no X; name the layer of the counts, one of {layers}.")
        gene_names(adata, self._gene_symbols)
        refuse_duplicates(adata.obs_names, "spot names in obs_names", "adata.obs_names_make_unique()")

    def register_field(self, adata: AnnData) -> dict:
        """Check every count, and note the genes, the median depth and the share of each gene."""
        self.validate_field(adata)
        depths, gene_totals = self._checked_totals(adata)
        genes = gene_names(adata, self._gene_symbols)
        return {
            self.N_OBS_KEY: adata.n_obs,
            self.N_VARS_KEY: len(genes),
            self.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
            self.TARGET_DEPTH_KEY: float(np.median(depths)),
            self.PROFILE_KEY: (gene_totals / gene_totals.sum()).astype(np.float32),
            self.WHOLE_KEY: looks_like_counts(self.get_field_data(adata)),
        }

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check another AnnData against the model's genes; the model's genes and constants stay."""
        self.validate_field(adata_target)
        columns = match_genes(
            pd.Index(state_registry[self.COLUMN_NAMES_KEY]), gene_names(adata_target, self._gene_symbols)
        )
        if (missing := int((columns < 0).sum())) > 0:
            known = len(columns) - missing
            logger.info(f"{known} of the model's {len(columns)} genes ({known / len(columns):.1%}) are in the section.")
        self._checked_totals(adata_target)
        whole = looks_like_counts(self.get_field_data(adata_target))
        return {**state_registry, self.N_OBS_KEY: adata_target.n_obs, self.WHOLE_KEY: whole}

    def _checked_totals(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
        where = "X" if self.attr_key is None else f"layers[{self.attr_key!r}]"
        depths, gene_totals = checked_totals(self.get_field_data(adata), where)
        empty = np.flatnonzero(depths == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} of {adata.n_obs} spots have no counts in {where}, for example "
                f"{adata.obs_names[empty[0]]!r}. Remove them with `scanpy.pp.filter_cells(adata, min_counts=1)`."
            )
        return depths, gene_totals


class SectionField(BaseAnnDataField):
    """The obs column that tells sections apart. The network never sees it, so a new section is never unknown."""

    def __init__(self, sample_key: str | None) -> None:
        super().__init__()
        self._sample_key = sample_key

    registry_key = SECTION_KEY
    attr_name = "obs"

    @property
    def attr_key(self) -> str | None:
        """Column of obs."""
        return self._sample_key

    @property
    def is_empty(self) -> bool:
        """Whether all spots are taken for one section."""
        return self._sample_key is None

    def validate_field(self, adata: AnnData) -> None:
        """Check that the column is there and that it is complete."""
        n_missing = int(obs_column(adata, self._sample_key, "sample_key").isna().sum())
        if n_missing:
            raise ValueError(f"obs[{self._sample_key!r}] is missing for {n_missing} spots; every spot needs a section.")

    def sections(self, adata: AnnData) -> np.ndarray:
        """Return the section of every spot, (n,)."""
        if self.is_empty:
            return np.full(adata.n_obs, "all", dtype=object)
        return adata.obs[self._sample_key].astype(str).to_numpy()

    def register_field(self, adata: AnnData) -> dict:
        """Note the sections."""
        self.validate_field(adata)
        return {"sections": np.unique(self.sections(adata))}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Note the sections of another AnnData; they may be new."""
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Count the sections."""
        return {"n_sections": len(state_registry.get("sections", ["all"]))}

    def view_state_registry(self, state_registry: dict) -> None:
        """Show no table of its own."""


class GraphField(BaseAnnDataField):
    """The neighbour graph in obsp, built with squidpy where it is absent."""

    registry_key = GRAPH_KEY
    attr_name = "obsp"
    is_empty = False

    def __init__(self, neighbors_key: str, spatial_key: str, section_field: SectionField) -> None:
        super().__init__()
        self._neighbors_key = neighbors_key
        self._spatial_key = spatial_key
        self._section_field = section_field

    @property
    def attr_key(self) -> str:
        """Key in obsp."""
        return f"{self._neighbors_key}_connectivities"

    def validate_field(self, adata: AnnData) -> None:
        """Build the graph if there is none, then check it."""
        sections = self._section_field.sections(adata)
        if self.attr_key not in adata.obsp:
            layout = "irregular" if self._neighbors_key == NEAREST_14 else None
            where = {"spatial_key": self._spatial_key, "key_added": self._neighbors_key}
            logger.info(build_graph(adata, sections=sections, layout=layout, **where))
        graph = self.clean_graph(adata)
        n_isolated = int((np.diff(graph.indptr) == 0).sum())
        if n_isolated:
            logger.info(f"{n_isolated} of {adata.n_obs} spots have no neighbours; they are kept and see themselves.")

    def clean_graph(self, adata: AnnData) -> sp.csr_matrix:
        """Return the graph that the model works on, (n, n)."""
        if self.attr_key not in adata.obsp:
            raise MissingKeyError(
                f"obsp has no {self.attr_key!r}, which was there at the setup (it has {sorted(adata.obsp)}). Put it "
                "back, or let `setup_anndata` build it."
            )
        return check_graph(adata.obsp[self.attr_key], self._section_field.sections(adata), self.attr_key)

    def register_field(self, adata: AnnData) -> dict:
        """Build or check the graph; it stays in obsp, where AnnData subsets and reorders it."""
        self.validate_field(adata)
        return {}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Build or check the graph of another AnnData."""
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Count nothing."""
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        """Show no table of its own."""


def refuse_unknown_arguments(arguments: dict[str, Any]) -> None:
    """Raise for arguments of a setup that nobody knows; scvi-tools' own come with `source_registry`."""
    if arguments and "source_registry" not in arguments:
        known = ", ".join(field.name for field in fields(SetupKeys))
        raise TypeError(f"The setup has no argument {next(iter(arguments))!r}; it takes {known}.")


@dataclass(frozen=True)
class SetupKeys:
    """Where an AnnData holds what the model uses; see :meth:`sagefm.SAGEFM.setup_anndata`."""

    layer: str | None = None
    sample_key: str | None = None
    spatial_key: str = "spatial"
    neighbors_key: str = "spatial"
    gene_symbols: str | None = None

    def section_field(self) -> SectionField:
        """Return the field of the sections."""
        return SectionField(self.sample_key)

    def registered_fields(self) -> list[BaseAnnDataField]:
        """Return all fields that the model registers."""
        section_field = self.section_field()
        return [
            section_field,
            CountsField(REGISTRY_KEYS.X_KEY, self.layer, self.gene_symbols),
            GraphField(self.neighbors_key, self.spatial_key, section_field),
        ]
