"""How well masked genes are recovered, gene by gene, compared with the mean of the neighbours."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense

from sagefm._errors import refuse_unknown
from sagefm._logging import logger
from sagefm.data import CHUNK, Mask, Spots, checked_rows, chunks, log_scaled
from sagefm.model._base import SpotModel, require_training
from sagefm.model._effective_size import Autocorrelation, LagPairs, effective_size
from sagefm.model._noise_ceiling import noise_ceiling
from sagefm.model._recovery_table import Moments, SectionScores, recovery_table
from sagefm.model._training_record import Status, spots_in_training, status_of
from sagefm.module import MASK_FRACTION, Encoded, MaskedCenterModule, OnePass, section_decoder


class RecoveryMixin(SpotModel):
    """`get_masked_recovery`, for :class:`sagefm.SAGEFM`."""

    def get_masked_recovery(
        self,
        adata: AnnData | None = None,
        *,
        mask_fraction: float = MASK_FRACTION,
        n_masks: int = 1,
        fit_section: bool = True,
        seed: int | Sequence[int] = 0,
        indices: Sequence[int] | np.ndarray | Literal["all"] | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Score how well randomly masked genes are recovered: predict them and correlate with the truth, per gene.

        Masked entries are predicted as by :meth:`impute_masked` with `mask`. Truth and predictions are compared on the
        same scale whatever the model's normalisation: `log1p` of counts scaled to the median library size of the
        section. The mean of the neighbours on that scale is scored on the same entries, as a baseline; a model that
        does not beat it has learnt nothing that a user needs. Isolated spots have no neighbours to average and are not
        scored.

        Where the model was trained on the AnnData that is scored, only its held-out spots are, unless `indices` says
        otherwise.

        Correlations within sections are averaged over sections by Fisher's :math:`z` transformation with weights
        :math:`n_s - 3`, for the :math:`n_s` masked entries of section :math:`s`. Their p-value is from Student's t
        distribution, with the effective number of entries in place of :math:`n_s`, since neighbouring spots are alike;
        it follows from the autocorrelation of truth and prediction over the neighbour graph (Clifford, Richardson and
        Hemon 1989; Dutilleul 1993). Sections are combined by the weighted z-method. The pooled correlation is over the
        spots of all sections together, as in the SAGE-FM paper (arXiv:2601.15504).

        The noise ceiling is the correlation that a perfect prediction would have with the counts, which are noisy:
        counts are split into two random halves three times, and the correlation of the halves gives the reliability of
        the whole by the Spearman-Brown formula, whose square root is the ceiling (Spearman 1910). It assumes that
        counts are Poisson given the expression; other technical noise would lower it.

        Parameters
        ----------
        adata
            AnnData with the spots to score. Defaults to the model's AnnData.
        mask_fraction
            Probability with which each gene of a spot is masked, between 0 and 1.
        n_masks
            Number of masks, evaluated one after another. They do not overlap, so each entry is scored at most once.
            With three masks of 30 %, nine entries in ten are scored instead of three, which makes correlations more
            precise.
        fit_section
            As in :meth:`impute_masked`. False scores what the network has learnt, plus the contribution of each gene's
            mean over the neighbours.
        seed
            Seed of the masks: an integer or several.
        indices
            Spots to score, as positions or as a boolean array, or `"all"`. By default the spots held out of training
            (for validation and for testing) where the model was trained on this AnnData, which it recognises by the
            names and library sizes of the spots; else all.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512.

        Returns
        -------
        pandas.DataFrame
            One row per gene that is in both the model and the section, with the columns

            ``r``, ``r_neighbors``
                Correlation with the truth within sections, of the model's prediction and of the mean of the
                neighbours. A prediction that does not vary scores 0; a gene that does not vary scores NaN.
            ``r_max``
                Noise ceiling of ``r``; NaN where counts are not whole numbers.
            ``r_pooled``
                Correlation of the model's prediction with the truth over all spots together.
            ``p``, ``q``
                Two-sided p-value of ``r``, and its Benjamini-Hochberg q-value over the genes.
            ``p_naive``
                Two-sided p-value of ``r_pooled`` as if spots were independent, which they are not.
            ``n``, ``n_effective``
                Number of masked entries that were scored, and how many independent ones they are worth.
            ``mean_expression``
                Mean on the scale of the comparison over all spots of the scored sections.

            ``attrs`` holds the totals: ``n_genes``, the number of genes with an ``r``; ``share_p05_naive``, the share
            of these with ``p_naive`` < 0.05 (the criterion of the paper); ``share_q05``, the share with ``q`` < 0.05
            and ``r`` > 0; ``median_r`` and ``median_r_neighbors``; for the 500 most expressed genes the means
            ``top500_r``, ``top500_r_neighbors`` and ``top500_r_max``, their ratio ``top500_share_of_ceiling``, and
            ``top500_share_q05``. It also holds ``mask_fraction``, ``n_masks``, ``fit_section``, ``seed``,
            ``n_sections``, ``n_spots`` and ``spots``: `"held out"`, `"trained on"`, or `"new"` where the model was not
            trained on this AnnData.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `mask_fraction` is not between 0 and 1, if `n_masks` masks of that size would overlap, or if `adata` does
            not pass the checks of :meth:`setup_anndata`.

        References
        ----------
        Clifford, Richardson and Hemon (1989), Assessing the significance of the correlation between two spatial
        processes, Biometrics 45.

        Dutilleul (1993), Modifying the t test for assessing the correlation between two spatial processes,
        Biometrics 49.

        Spearman (1910), Correlation calculated from faulty data, British Journal of Psychology 3.

        Examples
        --------
        >>> recovery = model.get_masked_recovery()
        >>> list(recovery.columns[:5])
        ['r', 'r_neighbors', 'r_max', 'r_pooled', 'p']
        >>> recovery.attrs["spots"]
        'held out'
        """
        require_training(self)
        if not 0 < mask_fraction < 1:
            raise ValueError(f"mask_fraction={mask_fraction!r} must lie between 0 and 1.")
        most = int(1 / mask_fraction + 1e-9)
        if not 1 <= n_masks <= most:
            raise ValueError(
                f"n_masks={n_masks} must lie between 1 and {most}: more masks of {mask_fraction:.0%} overlap."
            )
        section, spots = self._read(adata)
        rows, status = self._spots_to_score(self.adata if adata is None else adata, section, spots, indices)
        scored = np.isin(np.arange(spots.n_obs), rows)
        masks = random_masks(np.ravel(seed).tolist(), len(spots.genes), mask_fraction, n_masks)
        fit_section = fit_section and self.module.scale_genes
        scores = section_scores(self.module, spots, masks, scored, batch_size, fit=fit_section)
        table = recovery_table(scores, spots.genes[spots.known])
        settings = {"mask_fraction": mask_fraction, "n_masks": n_masks, "fit_section": fit_section, "seed": seed}
        table.attrs.update(settings, n_sections=len(scores), n_spots=len(rows), spots=status)
        return table

    def _spots_to_score(
        self, adata: AnnData | MuData, section: AnnData, spots: Spots, indices: Any
    ) -> tuple[np.ndarray, Status]:
        """Return the spots to score, and what they were in training."""
        trained, held_out = spots_in_training(self, adata, section, spots)
        if isinstance(indices, str):
            refuse_unknown("indices", indices, ("all",))
            rows = np.arange(spots.n_obs)
        elif indices is None and held_out.any():
            rows = np.flatnonzero(held_out)
            logger.info(
                f"Scored the {len(rows)} spots that were held out of training, of {spots.n_obs}; "
                "`indices='all'` scores all of them."
            )
        else:
            rows = checked_rows(indices, spots.n_obs)
        return rows, status_of(trained[rows], held_out[rows])


def section_scores(
    module: MaskedCenterModule,
    spots: Spots,
    masks: Sequence[Mask],
    scored: np.ndarray,
    batch_size: int | None = None,
    *,
    fit: bool,
) -> list[SectionScores]:
    """Score the masked entries of each section, the masks one after another.

    `scored`, boolean (spots,), selects the spots. `fit` is whether the decoder is fitted to each section.
    """
    passes = [(mask, OnePass(module, spots, batch_size, spots.units_without(mask))) for mask in masks]
    names = np.unique(spots.sections[scored])
    return [_score_section(module, spots, spots.sections == name, scored, passes, fit=fit) for name in names]


def _score_section(
    module: MaskedCenterModule,
    spots: Spots,
    section: np.ndarray,
    scored: np.ndarray,
    passes: Sequence[tuple[Mask, OnePass]],
    *,
    fit: bool,
) -> SectionScores:
    rows, centers = np.flatnonzero(section), np.flatnonzero(section & scored & (spots.n_neighbors[:, 0] > 0))
    (truth, depth), graph = _truth(spots, rows), spots.graph[rows][:, rows]
    gene_mean, mean_operator = np.asarray(truth.mean(axis=0)).ravel(), spots.mean_operator[rows][:, rows]
    members = np.searchsorted(rows, centers)
    lags = LagPairs(graph, members)
    autocorrelation = _autocorrelation_of_truth(truth, gene_mean, members, lags)
    predicted, moments = Autocorrelation(lags, truth.shape[1]), []
    for mask, one_pass in passes:
        decoder = section_decoder(module, one_pass, rows, mask, fit=fit)
        moments.append(Moments(gene_mean * len(rows), len(rows)))
        for encoded in one_pass.masked(centers, mask):
            place = np.searchsorted(rows, encoded.rows)
            values = _at_depth(module, decoder.decode(encoded, one_pass), encoded, depth)[:, spots.known]
            masked = encoded.mask.cpu().numpy()[:, spots.known]
            means = sparse_matmul_to_dense(mean_operator[place], truth)
            moments[-1].add(masked, truth[place].toarray(), values, means)
            predicted.add(np.searchsorted(centers, encoded.rows), values - gene_mean, masked)
    n = np.sum([part.n for part in moments], axis=0)
    ceiling = noise_ceiling(spots.counts(centers)[:, spots.known], depth)
    return SectionScores(moments, effective_size(n, autocorrelation, predicted), ceiling)


def _autocorrelation_of_truth(
    truth: sp.csr_matrix, gene_mean: np.ndarray, members: np.ndarray, lags: LagPairs
) -> np.ndarray:
    """Return the autocorrelation of the truth over `members`, rows of it, by distance, (classes, genes)."""
    observed = Autocorrelation(lags, truth.shape[1])
    for piece in chunks(np.arange(len(members)), CHUNK):
        observed.add(piece, truth[members[piece]].toarray() - gene_mean)
    return observed.by_distance()


def _truth(spots: Spots, rows: np.ndarray) -> tuple[sp.csr_matrix, float]:
    """Return `log1p` of the counts of one section, scaled to its median library size, and that library size."""
    counts = spots.counts(rows)[:, spots.known]
    library_size = np.asarray(counts.sum(axis=1)).ravel()
    depth = float(np.median(library_size))
    return log_scaled(counts, depth / np.maximum(library_size, 1)), depth


def _at_depth(module: MaskedCenterModule, logged: torch.Tensor, encoded: Encoded, depth: float) -> np.ndarray:
    """Return predictions as `log1p` of counts at `depth`, with library sizes estimated from unmasked genes."""
    factor = module.normalization.depth_factor(encoded.counts, encoded.mask) / encoded.factor
    return torch.log1p(torch.expm1(logged) * factor * (depth / module.normalization.target_depth)).cpu().numpy()


class RandomMask:
    """Mask of random entries; those of a spot depend only on the seed and on its position.

    Parameters
    ----------
    seed
        Numbers that seed the draws, together with the position of the spot.
    n_genes
        Number of genes.
    low, high
        Entries whose uniform draw lies in [`low`, `high`) are masked.
    """

    def __init__(self, seed: Sequence[int], n_genes: int, low: float, high: float) -> None:
        self._seed, self._n_genes, self._low, self._high = seed, n_genes, low, high

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        draws = np.empty((len(rows), self._n_genes), dtype=np.float32)
        for row, out in zip(rows, draws, strict=True):
            np.random.default_rng([*self._seed, row]).random(out=out, dtype=np.float32)
        return (self._low <= draws) & (draws < self._high)


def random_masks(seed: Sequence[int], n_genes: int, mask_fraction: float, n_masks: int = 1) -> list[RandomMask]:
    """Return `n_masks` random masks that do not overlap."""
    edges = (mask_fraction * np.arange(n_masks + 1)).tolist()
    return [RandomMask(seed, n_genes, low, high) for low, high in pairwise(edges)]
