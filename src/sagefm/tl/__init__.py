"""Tools that follow the model: spatial domains, annotation, section embeddings, ligand-receptor screens."""

from sagefm.tl._annotation import AnnotationReport, annotate
from sagefm.tl._domains import domains
from sagefm.tl._screen import ligand_receptor_screen
from sagefm.tl._sections import section_embedding

__all__ = ["AnnotationReport", "annotate", "domains", "ligand_receptor_screen", "section_embedding"]
