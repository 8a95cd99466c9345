"""The registry in which scvi-tools records what a model was set up with; only this file knows its layout."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from sagefm.data._fields import CountsField, SetupKeys
from sagefm.data._genes import match_genes
from sagefm.data._normalization import Normalization


def make_registry(
    genes: pd.Index, *, target_depth: float, profile: np.ndarray, keys: SetupKeys, n_obs: int = 0
) -> dict[str, Any]:
    """Return the registry of a model without an AnnData: its genes and the constants of its normalisation."""
    counts = {
        CountsField.N_OBS_KEY: n_obs,
        CountsField.N_VARS_KEY: len(genes),
        CountsField.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
        CountsField.TARGET_DEPTH_KEY: target_depth,
        CountsField.PROFILE_KEY: profile,
    }
    fields, states = keys.registered_fields(), {REGISTRY_KEYS.X_KEY: counts}
    setup = {"model_name": "SAGEFM", "setup_method_name": "setup_anndata", "setup_args": vars(keys)}
    manager = AnnDataManager(fields, setup)
    for field in fields:
        manager.registry["field_registries"][field.registry_key] = {
            "data_registry": field.get_data_registry(),
            "state_registry": states.get(field.registry_key, {}),
            "summary_stats": field.get_summary_stats(states.get(field.registry_key, {})),
        }
    return manager.registry


def genes_of(registry: dict[str, Any]) -> pd.Index:
    """Return the names of the registered genes."""
    return pd.Index(_counts_state(registry)[CountsField.COLUMN_NAMES_KEY])


def normalization_of(
    registry: dict[str, Any], method: Literal["size", "none"], *, scale_genes: bool = False
) -> Normalization:
    """Return the normalisation whose constants were recorded when the counts were registered."""
    state = _counts_state(registry)
    depth, profile = state[CountsField.TARGET_DEPTH_KEY], state[CountsField.PROFILE_KEY]
    return Normalization(method, depth, profile, scale_genes=scale_genes)


def registry_with_genes(registry: dict[str, Any], genes: pd.Index, section_genes: pd.Index) -> dict[str, Any]:
    """Return the registry of a section with other `genes`; one that the section lacks has no share in the counts."""
    registry = copy.deepcopy(registry)
    state, columns = _counts_state(registry), match_genes(genes, section_genes)
    profile = np.where(columns >= 0, state[CountsField.PROFILE_KEY][columns], 0)
    state[CountsField.COLUMN_NAMES_KEY] = genes.to_numpy(dtype=object)
    state[CountsField.N_VARS_KEY] = len(genes)
    state[CountsField.PROFILE_KEY] = (profile / profile.sum()).astype(np.float32)
    return registry


def _counts_state(registry: dict[str, Any]) -> dict[str, Any]:
    return registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
