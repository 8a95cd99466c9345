"""Which spots a model was trained on, remembered by name, so that scores can be of spots that were held out."""

from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from sagefm.data import Spots
from sagefm.model._base import SpotModel

# Library sizes may differ by this share where genes were filtered since; those of other spots of the same name, such as
# the same barcode in another section, mostly differ by more.
_SAME_LIBRARY_SIZE = 0.2

Record = dict[str, np.ndarray]
Status = Literal["held out", "trained on", "new"]


def make_record(names: pd.Index, library_size: np.ndarray, held_out: np.ndarray, earlier: Record | None) -> Record:
    """Return what is saved with a model: name, library size and whether it was held out, for every spot.

    Parameters
    ----------
    names, library_size, held_out
        Of the spots of the AnnData that the model was trained on, each (spots,).
    earlier
        Record of earlier training: a spot that was trained on then is not held out now.
    """
    trained, _ = match_record(earlier, names)
    return {"names": names.to_numpy(dtype=str), "library_size": library_size, "held_out": held_out & ~trained}


def match_record(
    record: Record | None, names: pd.Index, library_size: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which spots the model was trained on, and which were held out, each boolean (spots,).

    Spots that are neighbours of held-out ones count as trained on. There are none of either where most of the spots are
    not in the record: the AnnData is another one. Without `library_size` names alone decide.
    """
    nothing = np.zeros(len(names), dtype=bool)
    if record is None:
        return nothing, nothing
    place = pd.Index(record["names"]).get_indexer(names.astype(str))
    known, held_out = place >= 0, record["held_out"][place]
    if library_size is not None:
        before = record["library_size"][place]
        known &= np.abs(library_size - before) <= _SAME_LIBRARY_SIZE * np.maximum(library_size, before)
    return (known & ~held_out, known & held_out) if known.mean() >= 0.5 else (nothing, nothing)


def spots_in_training(
    model: SpotModel, adata: AnnData | MuData, section: AnnData, spots: Spots
) -> tuple[np.ndarray, np.ndarray]:
    """Return which spots of `adata` the model was trained on, and which were held out, each boolean (spots,)."""
    record, same = getattr(model, "training_record_", None), adata is getattr(model, "_trained_on", None)
    library_sizes = None if record is None or same else spots.library_sizes()  # reads all counts
    return match_record(record, section.obs_names, library_sizes)


def status_of(trained: np.ndarray, held_out: np.ndarray) -> Status:
    """Return what spots were in training, of which these were trained on or held out."""
    return "trained on" if trained.any() else "held out" if held_out.any() else "new"
