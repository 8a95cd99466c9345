"""Weights in files: folders of shared weights, and the published checkpoint."""

from sagefm.weights._folder import (
    CARD,
    PACKAGED,
    WEIGHTS,
    best_packaged_weights,
    find_weights,
    packaged_weights,
    read_card,
    read_tensors,
    refuse_changed_card,
    write_weights,
)
from sagefm.weights._published import checked_widths, module_state, read_checkpoint, read_gene_names
