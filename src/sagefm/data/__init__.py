"""From an AnnData or a file to batches: counts, genes, neighbour graph, normalisation, splits."""

from sagefm.data._batches import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    NeighborhoodDataset,
)
from sagefm.data._checksums import checksum_of, stamp_of
from sagefm.data._counts import CHUNK, checked_totals, looks_like_counts, read_rows
from sagefm.data._fields import SetupKeys, refuse_unknown_arguments
from sagefm.data._genes import gene_names, match_genes, positions_of, refuse_duplicates
from sagefm.data._graph import NEAREST_14, check_graph, compact_blocks, neighbor_mean_operator
from sagefm.data._mudata import ModalityField, modality, refuse_mudata, registered_adata
from sagefm.data._normalization import Normalization, log_scaled, with_current_names
from sagefm.data._reading import graph_of, is_section, read_section, read_whole, reading
from sagefm.data._registry import genes_of, keys_of, make_registry, normalization_of, registry_with_genes
from sagefm.data._selection import checked_rows, group_spots, obs_column, refuse_unwritable_key, shares
from sagefm.data._splitting import SectionSplitter, are_near, whole_groups
from sagefm.data._spots import Mask, Spots, chunks, gene_moments, registered_spots, section_spots
from sagefm.data._units import SectionUnits, Units, of_spots, section_units
