"""Recovery of masked genes on sections of a corpus."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sagefm.model import SAGEFM, Moments, random_masks, recovery_table, require_training, section_moments
from sagefm.module import MASK_FRACTION
from sagefm.pretraining._corpus import Corpus


def corpus_recovery(
    model: SAGEFM, corpus: Corpus, sections: Iterable[int], *, mask_fraction: float = MASK_FRACTION, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score masked genes as :meth:`sagefm.SAGEFM.get_masked_recovery` does, on sections of a corpus read one at a time.

    The network alone is scored (`fit_section=False`): what it has learnt from other sections.

    Parameters
    ----------
    model
        A trained model with the genes of the corpus.
    corpus
        The sections.
    sections
        Numbers of the sections to score, as rows of `corpus.table`.
    mask_fraction, seed
        As in :meth:`sagefm.SAGEFM.get_masked_recovery`.

    Returns
    -------
    genes
        One row per gene, over all sections: the table of :meth:`sagefm.SAGEFM.get_masked_recovery`. For
        `mean_expression`, a gene missing from a section counts as zero there.
    by_section
        One row per section: its name, number of spots and totals.

    Raises
    ------
    RuntimeError
        If the model is untrained.
    ValueError
        If the genes of the corpus differ from those of the model, or if a section has changed since it was indexed.

    Examples
    --------
    >>> import sagefm
    >>> folder = getfixture("tmp_path")
    >>> for seed in range(3):
    ...     section = sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed)
    ...     section.write_h5ad(folder / f"section_{seed}.h5ad")
    >>> corpus = sagefm.pretraining.Corpus(folder)
    >>> data = sagefm.pretraining.CorpusDataModule(corpus, batch_size=16, validation_size=0.3)
    >>> model = sagefm.SAGEFM(registry=corpus.registry)
    >>> model.train(max_epochs=1, datamodule=data, enable_progress_bar=False)
    >>> genes, by_section = sagefm.pretraining.corpus_recovery(model, corpus, data.validation_sections)
    >>> len(by_section) == len(data.validation_sections)
    True
    """
    require_training(model)
    corpus.require_genes(model.genes)
    moments, totals = [], []
    for section in sections:
        spots = corpus.open(section, model.module.normalization)
        (mask,) = random_masks([seed, section], len(spots.genes), mask_fraction)
        (found,) = section_moments(model.module, spots, mask, np.ones(spots.n_obs, dtype=bool), fit=False)
        table = recovery_table([[found]], spots.genes[spots.known])
        totals.append({"sample": corpus.table["sample"][section], "n_spots": spots.n_obs, **table.attrs})
        moments.append(_over_all_genes(found, spots.known))
    return recovery_table([moments], corpus.genes), pd.DataFrame(totals)


def _over_all_genes(moments: Moments, known: np.ndarray) -> Moments:
    sums, expression = np.zeros((len(moments.sums), len(known))), np.zeros(len(known))
    sums[:, known], expression[known] = moments.sums, moments.expression
    return Moments(expression, moments.n_spots, sums)
