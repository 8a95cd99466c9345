"""Tools that follow the model: spatial domains and filters, annotation, query mapping, section embeddings, screens."""

from sagefm.tl._annotation import annotate
from sagefm.tl._colors import match_colors
from sagefm.tl._domains import domains
from sagefm.tl._filter import spatial_filter
from sagefm.tl._mapping import map_query
from sagefm.tl._report import AnnotationReport
from sagefm.tl._screen import ligand_receptor_screen
from sagefm.tl._sections import section_embedding

__all__ = [
    "AnnotationReport",
    "annotate",
    "domains",
    "ligand_receptor_screen",
    "map_query",
    "match_colors",
    "section_embedding",
    "spatial_filter",
]
