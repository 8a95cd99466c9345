"""How well masked genes are recovered, gene by gene, compared with the mean of the neighbours."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense

from sagefm.data import Mask, Spots, checked_rows, log_scaled
from sagefm.model._base import SpotModel, require_training
from sagefm.model._recovery_table import Moments, recovery_table
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
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Score how well randomly masked genes are recovered: predict them and correlate with the truth, per gene.

        Masked entries are predicted as by :meth:`impute_masked` with `mask`. Truth and predictions are compared on the
        same scale whatever the model's normalisation: `log1p` of counts scaled to the median library size of the
        section. The mean of the neighbours on that scale is scored on the same entries, as a baseline; a model that
        does not beat it has learnt nothing that a user needs. Isolated spots have no neighbours to average and are not
        scored.

        Correlations within sections are averaged over sections by Fisher's :math:`z` transformation with weights
        :math:`n_s - 3`, for the :math:`n_s` masked entries of section :math:`s`; their p-value is that of the averaged
        :math:`z` under the normal distribution. The pooled correlation is over the spots of all sections together, as
        in the SAGE-FM paper (arXiv:2601.15504); its p-value is from Student's t distribution.

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
            As in :meth:`impute_masked`. False scores what the network alone has learnt.
        seed
            Seed of the masks: an integer or several.
        indices
            Spots to score, as positions or as a boolean array. Defaults to all. `model.validation_indices` are spots
            that the model was not trained on.
        batch_size
            Number of spots that are held as dense arrays at one time. Defaults to 512.

        Returns
        -------
        pandas.DataFrame
            One row per gene that is in both the model and the section, with the columns

            ``r``, ``r_neighbors``
                Correlation with the truth within sections, of the model's prediction and of the mean of the
                neighbours. A prediction that does not vary scores 0; a gene that does not vary scores NaN.
            ``r_pooled``
                Correlation of the model's prediction with the truth over all spots together.
            ``p``, ``q``
                Two-sided p-value of ``r``, and its Benjamini-Hochberg q-value over the genes.
            ``p_pooled``
                Two-sided p-value of ``r_pooled``.
            ``n``
                Number of masked entries that were scored.
            ``mean_expression``
                Mean on the scale of the comparison over all spots of the scored sections.

            ``attrs`` holds the totals: ``n_genes``, the number of genes with an ``r``; ``share_p05``, the share of
            these with ``p_pooled`` < 0.05 (the criterion of the paper); ``share_q05``, the share with ``q`` < 0.05 and
            ``r`` > 0; ``median_r`` and ``median_r_neighbors``; for the 500 most expressed genes the means ``top500_r``
            and ``top500_r_neighbors``, and ``top500_share_q05``. It also holds ``mask_fraction``, ``n_masks``,
            ``fit_section``, ``seed`` and ``n_sections``.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `mask_fraction` is not between 0 and 1, if `n_masks` masks of that size would overlap, or if `adata` does
            not pass the checks of :meth:`setup_anndata`.

        Examples
        --------
        >>> recovery = model.get_masked_recovery()
        >>> list(recovery.columns[:5])
        ['r', 'r_neighbors', 'r_pooled', 'p', 'q']
        >>> recovery.attrs["n_sections"]
        1
        """
        require_training(self)
        if not 0 < mask_fraction < 1:
            raise ValueError(f"mask_fraction={mask_fraction!r} must lie between 0 and 1.")
        most = int(1 / mask_fraction + 1e-9)
        if not 1 <= n_masks <= most:
            raise ValueError(
                f"n_masks={n_masks} must lie between 1 and {most}: more masks of {mask_fraction:.0%} overlap."
            )
        spots = self._read(adata)[1]
        scored = np.isin(np.arange(spots.n_obs), checked_rows(indices, spots.n_obs))
        masks = random_masks(np.ravel(seed).tolist(), len(spots.genes), mask_fraction, n_masks)
        fit_section = fit_section and self.module.scale_genes
        moments = [section_moments(self.module, spots, mask, scored, batch_size, fit=fit_section) for mask in masks]
        table = recovery_table(moments, spots.genes[spots.known])
        settings = {"mask_fraction": mask_fraction, "n_masks": n_masks, "fit_section": fit_section, "seed": seed}
        table.attrs.update(settings, n_sections=len(moments[0]))
        return table


def section_moments(
    module: MaskedCenterModule,
    spots: Spots,
    mask: Mask,
    scored: np.ndarray,
    batch_size: int | None = None,
    *,
    fit: bool,
) -> list[Moments]:
    """Return the moments of truth, prediction and neighbour mean over the masked entries of each section.

    `scored`, boolean (spots,), selects the spots. `fit` is whether the decoder is fitted to each section.
    """
    one_pass = OnePass(module, spots, batch_size, spots.units_without(mask))
    moments = []
    for name in np.unique(spots.sections[scored]):
        section = spots.sections == name
        rows = np.flatnonzero(section)
        connected = np.flatnonzero(section & scored & (spots.n_neighbors[:, 0] > 0))
        truth, depth = _truth(spots, rows)
        mean_operator = spots.mean_operator[rows][:, rows]
        decoder = section_decoder(module, one_pass, rows, mask, fit=fit)
        moments.append(Moments(np.asarray(truth.sum(axis=0)).ravel(), len(rows)))
        for encoded in one_pass.masked(connected, mask):
            predicted = _at_depth(module, decoder.decode(encoded, one_pass), encoded, depth)
            place = np.searchsorted(rows, encoded.rows)
            means = sparse_matmul_to_dense(mean_operator[place], truth)
            masked = encoded.mask.cpu().numpy()[:, spots.known]
            moments[-1].add(masked, truth[place].toarray(), predicted[:, spots.known], means)
    return moments


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
