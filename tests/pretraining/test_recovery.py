"""Recovery of masked genes on sections of a corpus."""

import pytest

import sagefm
from sagefm.pretraining import Corpus, corpus_recovery


def test_recovery_requires_a_trained_model_with_the_same_genes(corpus, corpus_folder, fit):
    with pytest.raises(RuntimeError, match="train"):
        corpus_recovery(sagefm.SAGEFM(registry=corpus.registry, n_hidden=4, n_latent=2), corpus, [0])
    model, _ = fit(max_epochs=1)
    reversed_genes = Corpus(corpus_folder, genes=corpus.genes[::-1])
    with pytest.raises(ValueError, match="expected the same genes in the same order"):
        corpus_recovery(model, reversed_genes, [0])


def test_gene_missing_from_a_section_is_scored_on_the_others(corpus, fit):
    model, _ = fit(max_epochs=1)
    lacking = int(corpus.table["n_genes"].argmin())
    alone, _ = corpus_recovery(model, corpus, [lacking])
    genes, by_section = corpus_recovery(model, corpus, [lacking, 0])
    missing = alone.index[alone["n"] == 0]
    assert list(genes.index) == list(corpus.genes)
    assert len(missing) == len(corpus.genes) - corpus.table["n_genes"][lacking] > 0
    assert (genes.loc[missing, "n"] > 0).all() and (alone.loc[missing, "mean_expression"] == 0).all()
    assert list(by_section["sample"]) == list(corpus.table["sample"][[lacking, 0]])
    assert list(by_section["n_spots"]) == list(corpus.sizes[[lacking, 0]])
