"""Which spots a model was trained on, remembered by name, so that scores can be of spots that were held out."""

import numpy as np
import pandas as pd

# Library sizes may differ by this share where genes were filtered since; those of other spots of the same name, such as
# the same barcode in another section, mostly differ by more.
_SAME_LIBRARY_SIZE = 0.2

Record = dict[str, np.ndarray]


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
