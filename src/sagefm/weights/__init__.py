"""Weights in files: those that come with the package, cards, and the published checkpoint."""

from sagefm.weights._card import (
    CARD,
    CARD_KEYS,
    FORMAT,
    PACKAGED,
    PROFILE,
    WEIGHTS,
    card_checksum,
    file_names,
    find_weights,
    packaged_weights,
    read_card,
    read_weights,
)
from sagefm.weights._published import checked_widths, module_state, read_checkpoint, read_gene_names
