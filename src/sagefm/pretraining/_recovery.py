"""Recovery of masked genes on sections of a corpus, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sagefm._recovery import Moments, recovery_table
from sagefm.pretraining._corpus import Corpus

if TYPE_CHECKING:
    from sagefm import SAGEFM


def corpus_recovery(
    model: SAGEFM, corpus: Corpus, sections: Iterable[int], *, mask_fraction: float = 0.3, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score masked genes on sections of a corpus as :meth:`sagefm.SAGEFM.get_masked_recovery` does, one in memory.

    Parameters
    ----------
    model
        A trained model with the genes of the corpus.
    corpus
        Where the sections are.
    sections
        Their numbers, as rows of `corpus.table`.
    mask_fraction, seed
        As in :meth:`sagefm.SAGEFM.get_masked_recovery`.

    Returns
    -------
    genes
        One row a gene, over all the sections: the table of :meth:`sagefm.SAGEFM.get_masked_recovery`. `mean_expression`
        counts a gene that a section lacks as zero there.
    by_section
        One row a section: its name, spots and totals.
    """
    moments, totals = [], []
    for section in sections:
        spots = corpus.open(section, model.module.normalization)
        every, rng = np.ones(spots.n_obs, dtype=bool), np.random.default_rng([seed, section])
        found = model._section_moments(spots, every, every, mask_fraction, rng, None)
        table = recovery_table([found], spots.genes[spots.known])
        totals.append({"sample": corpus.table["sample"][section], "n_spots": spots.n_obs, **table.attrs})
        moments.append(_over_all_genes(found, spots.known))
    return recovery_table(moments, corpus.genes), pd.DataFrame(totals)


def _over_all_genes(moments: Moments, known: np.ndarray) -> Moments:
    sums, expression = np.zeros((len(moments.sums), len(known))), np.zeros(len(known))
    sums[:, known], expression[known] = moments.sums, moments.expression
    return Moments(sums, expression, moments.n_spots)
