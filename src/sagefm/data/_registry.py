"""The registry in which scvi-tools records how a model was set up; only this file knows its layout."""

import copy
from dataclasses import fields
from typing import Literal

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from sagefm.data._fields import CountsField, SetupKeys
from sagefm.data._genes import match_genes
from sagefm.data._graph import GraphKind
from sagefm.data._normalization import Normalization


def make_registry(
    genes: pd.Index,
    *,
    target_depth: float,
    profile: np.ndarray,
    keys: SetupKeys,
    graph: GraphKind = "auto",
    n_obs: int = 0,
) -> dict:
    """Return the registry of a model without an AnnData: its genes and the constants of its normalisation."""
    states = {REGISTRY_KEYS.X_KEY: CountsField.state(genes, n_obs, target_depth, profile)}
    setup = {"model_name": "SAGEFM", "setup_method_name": "setup_anndata", "setup_args": vars(keys) | {"graph": graph}}
    manager = AnnDataManager(keys.registered_fields(graph), setup)
    for field in manager.fields:
        state = states.get(field.registry_key, {})
        manager.registry["field_registries"][field.registry_key] = {
            "data_registry": field.get_data_registry(),
            "state_registry": state,
            "summary_stats": field.get_summary_stats(state),
        }
    return manager.registry


def genes_of(registry: dict) -> pd.Index:
    """Return the names of the registered genes."""
    return pd.Index(counts_state(registry)[CountsField.COLUMN_NAMES_KEY])


def keys_of(registry: dict) -> SetupKeys:
    """Return the keys of the setup."""
    arguments = registry["setup_args"]
    return SetupKeys(**{field.name: arguments[field.name] for field in fields(SetupKeys)})


def normalization_of(registry: dict, method: Literal["size", "none"], *, scale_genes: bool = False) -> Normalization:
    """Return the normalisation whose constants were recorded when the counts were registered."""
    state = counts_state(registry)
    depth, profile = state[CountsField.TARGET_DEPTH_KEY], state[CountsField.PROFILE_KEY]
    return Normalization(method, depth, profile, scale_genes=scale_genes)


def registry_with_genes(registry: dict, genes: pd.Index) -> dict:
    """Return the registry of a section with other `genes`; those missing from the section have no share in counts."""
    columns, registry = match_genes(genes, genes_of(registry)), copy.deepcopy(registry)
    state = counts_state(registry)
    profile = np.where(columns >= 0, state[CountsField.PROFILE_KEY][columns], 0)
    profile = (profile / profile.sum()).astype(np.float32)
    state |= CountsField.state(genes, state[CountsField.N_OBS_KEY], state[CountsField.TARGET_DEPTH_KEY], profile)
    return registry


def counts_state(registry: dict) -> dict:
    """Return what is recorded of the counts."""
    return registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
