"""Pretraining on many sections on disk: the corpus, its batches and checkpoints."""

from sagefm.pretraining._corpus import Corpus
from sagefm.pretraining._datamodule import CorpusDataModule
from sagefm.pretraining._recovery import corpus_recovery
from sagefm.pretraining._resume import ResumePoint

__all__ = ["Corpus", "CorpusDataModule", "ResumePoint", "corpus_recovery"]
