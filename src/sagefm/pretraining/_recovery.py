"""Recovery of masked genes on sections of a corpus."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sagefm.model import (
    SAGEFM,
    Moments,
    SectionScores,
    random_masks,
    recovery_table,
    require_training,
    section_scores,
)
from sagefm.module import MASK_FRACTION
from sagefm.pretraining._corpus import Corpus


def corpus_recovery(
    model: SAGEFM, corpus: Corpus, sections: Iterable[int], *, mask_fraction: float = MASK_FRACTION, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score masked genes as :meth:`sagefm.SAGEFM.get_masked_recovery` does, on sections of a corpus read one at a time.

    The decoder is not fitted to the sections (`fit_section=False`): scored is what was learnt from other sections.

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
    scores, totals = [], []
    for section in sections:
        spots = corpus.open(section, model.module.normalization)
        masks = random_masks([seed, section], len(spots.genes), mask_fraction)
        found = section_scores(model.module, spots, masks, np.ones(spots.n_obs, dtype=bool), fit=False)
        table = recovery_table(found, spots.genes[spots.known])
        totals.append({"sample": corpus.table["sample"][section], "n_spots": spots.n_obs, **table.attrs})
        scores += [_over_all_genes(part, spots.known) for part in found]
    return recovery_table(scores, corpus.genes), pd.DataFrame(totals)


def _over_all_genes(scores: SectionScores, known: np.ndarray) -> SectionScores:
    """Return scores with a place for every gene of the corpus; genes that are not `known` have no entries."""

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        spread_out = np.full((*values.shape[:-1], len(known)), fill, dtype=float)
        spread_out[..., known] = values
        return spread_out

    moments = [Moments(spread(m.expression, 0), m.n_spots, spread(m.sums, 0)) for m in scores.moments]
    return SectionScores(moments, spread(scores.n_effective, 0), spread(scores.r_max, np.nan))
