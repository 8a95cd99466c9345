"""The genes of a corpus and the constants of its normalisation, from the index alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sagefm.pretraining._index import SectionRecord

_ITERATIONS = 20  # of the fixed point below; fewer are enough for convergence to 1e-6


def shared_genes(records: Sequence[SectionRecord], min_share: float) -> pd.Index:
    """Return the genes with counts in at least `min_share` of the sections, sorted by name; 1 is the intersection."""
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share={min_share!r} must be above 0 and at most 1.")
    present = pd.Series(np.concatenate([record.genes[record.gene_totals > 0] for record in records])).value_counts()
    genes = present.index[present >= min_share * len(records) - 1e-9]
    if genes.empty:
        fewest = min(records, key=lambda record: len(record.genes))
        raise ValueError(
            f"No gene has counts in {min_share:.0%} of the {len(records)} sections. Are they of one species, with the "
            f"same kind of gene names? {fewest.path.name} has {fewest.genes[:3].tolist()}, {records[0].path.name} has "
            f"{records[0].genes[:3].tolist()}. Leave out the sections that differ, or lower `min_share`."
        )
    return pd.Index(sorted(genes))


def gene_totals(records: Sequence[SectionRecord], genes: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `genes` each section has, and their total counts, 0 without the gene; both (sections, genes)."""
    columns = np.array([pd.Index(record.genes).get_indexer(genes) for record in records])
    totals = np.array([record.gene_totals[index] for record, index in zip(records, columns, strict=True)])
    known = columns >= 0
    return known, np.where(known, totals, 0)


def gene_profile(known: np.ndarray, totals: np.ndarray) -> np.ndarray:
    r"""Return the share of each gene in all counts, (genes,), if sections may lack genes.

    `known` and `totals` are (sections, genes). The counts of a section are modelled as a multinomial sample of the
    genes that it has; the likelihood is maximal where

    .. math:: p_g \propto \sum_s x_{sg} \Big/ \sum_{s\ \text{has}\ g} N_s, \quad
        N_s = \sum_g x_{sg} \Big/ \sum_{g\ \text{in}\ s} p_g.
    """
    profile = np.full(known.shape[1], 1 / known.shape[1])
    for _ in range(_ITERATIONS):
        sizes = totals.sum(axis=1) / np.maximum(known @ profile, 1e-12)
        profile = totals.sum(axis=0) / np.maximum(sizes @ known, 1e-12)
        profile /= profile.sum()
    return profile.astype(np.float32)


def target_depth(records: Sequence[SectionRecord], known: np.ndarray, totals: np.ndarray, profile: np.ndarray) -> float:
    """Return the median library size over all spots, as it would be with every gene of the vocabulary."""
    within = totals.sum(axis=1) / [record.gene_totals.sum() for record in records]
    factors = within / np.maximum(known @ profile, 1e-12)
    return float(np.median(np.concatenate([r.depths * factor for r, factor in zip(records, factors, strict=True)])))
