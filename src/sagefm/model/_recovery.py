"""How well masked genes are recovered, gene by gene, beside the mean of the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense
from torch import Tensor

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
        r"""Mask genes at random, predict them as :meth:`impute_masked` does, and correlate with the truth, by gene.

        Truth and predictions are compared on one scale whatever the model's normalisation: `log1p` of counts scaled to
        the median depth of the section. The mean of the neighbours on that scale is scored on the same entries; a
        model that does not beat it has learnt nothing a user needs. Isolated spots have no such mean and are left out.

        Correlations within sections are averaged over sections by Fisher's :math:`z` with weights :math:`n_s - 3`;
        their p-value is that of the averaged :math:`z` under the normal law. The pooled correlation takes the spots of
        all sections together, as the SAGE-FM paper (arXiv:2601.15504) does; its p-value is Student's.

        Parameters
        ----------
        adata
            Spots to score; the AnnData of the model by default.
        mask_fraction
            Probability with which each gene of a spot is masked.
        n_masks
            How many masks are tried, one after another; what one hides no other does. With three of 30 %, nine entries
            in ten are scored instead of three, so correlations are more certain.
        fit_section
            As in :meth:`impute_masked`; False scores what the network alone has learnt.
        seed
            Seed of the masks, one number or several.
        indices
            Spots to score, as positions or as a boolean array; all by default. `model.validation_indices` are spots
            that the model was not trained on.
        batch_size
            Number of spots that are dense at one time; 512 by default.

        Returns
        -------
        pandas.DataFrame
            One row a gene that the model and the section share, with

            ``r``, ``r_neighbors``
                Correlation within sections, of the model's prediction and of the mean of the neighbours. A prediction
                that does not vary scores 0; a gene that does not vary is NaN.
            ``r_pooled``
                Correlation of the model's prediction over all spots together.
            ``p``, ``q``
                Two-sided p-value of ``r`` and its Benjamini-Hochberg q-value over the genes.
            ``p_pooled``
                Two-sided p-value of ``r_pooled``.
            ``n``
                Number of masked entries.
            ``mean_expression``
                Mean on the scale of comparison, over all spots of the sections scored.

            ``attrs`` holds the totals: ``n_genes`` tested; ``share_p05``, the share of them with ``p_pooled`` < 0.05
            (the paper's criterion); ``share_q05``, with ``q`` < 0.05 and ``r`` > 0; ``median_r``,
            ``median_r_neighbors``; of the 500 most expressed genes ``top500_r`` and ``top500_r_neighbors``, means, and
            ``top500_share_q05``; and ``mask_fraction``, ``n_masks``, ``fit_section``, ``seed``, ``n_sections``.

        Raises
        ------
        RuntimeError
            If the model is untrained.
        ValueError
            If `mask_fraction` is not between 0 and 1, or so many masks have no room beside one another.

        Examples
        --------
        >>> recovery = model.get_masked_recovery()
        >>> recovery.loc["GENE0001", ["r", "r_neighbors"]].shape
        (2,)
        """
        require_training(self)
        if not 0 < mask_fraction < 1:
            raise ValueError(f"mask_fraction={mask_fraction} must lie between 0 and 1.")
        most = max(int(1 / mask_fraction + 1e-9), 1)
        if not 1 <= n_masks <= most:
            raise ValueError(
                f"n_masks={n_masks} must lie between 1 and {most}: masks of {mask_fraction:.0%} hide each entry once "
                "at most."
            )
        spots = self._read(adata)[1]
        scored = np.zeros(spots.n_obs, dtype=bool)
        scored[checked_rows(indices, spots.n_obs)] = True
        masks = random_masks(np.ravel(seed).tolist(), len(spots.genes), mask_fraction, n_masks)
        fit_section = fit_section and self.module.scale_genes
        moments = [section_moments(self.module, spots, mask, scored, batch_size, fit=fit_section) for mask in masks]
        table = recovery_table(moments, spots.genes[spots.known])
        totals = {"mask_fraction": mask_fraction, "n_masks": n_masks, "fit_section": fit_section, "seed": seed}
        table.attrs.update(totals, n_sections=len(moments[0]))
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
    """Sum up truth, prediction and neighbour mean over the masked entries of each section's `scored` spots."""
    one_pass = OnePass(module, spots, batch_size, spots.units_without(mask))
    moments = []
    for name in np.unique(spots.sections[scored]):
        section = spots.sections == name
        rows, centers = np.flatnonzero(section), np.flatnonzero(section & scored & (spots.n_neighbors[:, 0] > 0))
        truth, decoder = _Truth(spots, rows), section_decoder(module, one_pass, rows, mask, fit=fit)
        moments.append(Moments.start(truth.total_expression, len(rows)))
        for encoded in one_pass.masked(centers, mask):
            predicted = _on_truth_scale(module, decoder.decode(encoded, one_pass), encoded, truth.depth)
            masked, means = encoded.mask.cpu().numpy()[:, spots.known], truth.neighbor_mean(encoded.rows)
            moments[-1].add(masked, truth.values(encoded.rows), predicted[:, spots.known], means)
    return moments


@torch.inference_mode()
def _on_truth_scale(module: MaskedCenterModule, logged: Tensor, encoded: Encoded, depth: float) -> np.ndarray:
    """Return predictions as `log1p` of counts at `depth`, with the library size estimated from unmasked genes."""
    normalization = module.normalization
    factor = normalization.depth_factor(encoded.counts, encoded.mask) / encoded.factor
    return torch.log1p(torch.expm1(logged) * factor * (depth / normalization.target_depth)).cpu().numpy()


class RandomMask:
    """Entries masked at random; those of a spot depend on the seed and its position only.

    Parameters
    ----------
    seed
        Numbers that seed the draws together with the position of the spot.
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
    """Return random masks that do not overlap."""
    edges = (mask_fraction * np.arange(n_masks + 1)).tolist()
    return [RandomMask(seed, n_genes, low, high) for low, high in pairwise(edges)]


class _Truth:
    """The measured expression of one section: `log1p` of counts scaled to the section's median library size."""

    def __init__(self, spots: Spots, rows: np.ndarray) -> None:
        counts = spots.counts(rows)[:, spots.known]
        depths = np.asarray(counts.sum(axis=1)).ravel()
        self.depth = float(np.median(depths))
        self._logged = log_scaled(counts, self.depth / np.maximum(depths, 1))
        self._operator = spots.mean_operator[rows][:, rows]
        self._position = pd.Series(np.arange(len(rows)), index=rows)

    @property
    def total_expression(self) -> np.ndarray:
        return np.asarray(self._logged.sum(axis=0)).ravel()

    def values(self, rows: np.ndarray) -> np.ndarray:
        return self._logged[self._position[rows].to_numpy()].toarray()

    def neighbor_mean(self, rows: np.ndarray) -> np.ndarray:
        return sparse_matmul_to_dense(self._operator[self._position[rows].to_numpy()], self._logged)
