"""How a model without an AnnData says what it was set up with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from sagefm._fields import CountsField, model_fields


@dataclass(frozen=True)
class SectionKeys:
    """Where a section keeps what is read of it; as in :meth:`sagefm.SAGEFM.setup_anndata`."""

    layer: str | None = None
    sample_key: str | None = None
    spatial_key: str = "spatial"
    neighbors_key: str = "spatial"
    gene_symbols: str | None = None


def registry_of(
    genes: pd.Index, *, target_depth: float, profile: np.ndarray, keys: SectionKeys, n_obs: int = 0
) -> dict[str, Any]:
    """Return the registry of a model that knows its genes and the constants of its normalisation."""
    counts = {
        CountsField.N_OBS_KEY: n_obs,
        CountsField.N_VARS_KEY: len(genes),
        CountsField.COLUMN_NAMES_KEY: genes.to_numpy(dtype=object),
        CountsField.TARGET_DEPTH_KEY: target_depth,
        CountsField.PROFILE_KEY: profile,
    }
    fields, states = model_fields(**vars(keys)), {REGISTRY_KEYS.X_KEY: counts}
    manager = AnnDataManager(
        fields, {"model_name": "SAGEFM", "setup_method_name": "setup_anndata", "setup_args": vars(keys)}
    )
    for field in fields:
        manager.registry["field_registries"][field.registry_key] = {
            "data_registry": field.get_data_registry(),
            "state_registry": states.get(field.registry_key, {}),
            "summary_stats": field.get_summary_stats(states.get(field.registry_key, {})),
        }
    return manager.registry
