"""How well masked genes are recovered, gene by gene, beside the mean of the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi.model.base import BaseModelClass
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense
from torch import Tensor

from sagefm._asked import checked_rows
from sagefm._correlation import Moments, recovery_table
from sagefm._data import Spots
from sagefm._inference import Encoded, Masks, OnePass
from sagefm._section_fit import section_decoder


class RecoveryMixin(BaseModelClass):
    """`get_masked_recovery`, for :class:`sagefm.SAGEFM`."""

    def get_masked_recovery(
        self,
        adata: AnnData | None = None,
        *,
        mask_fraction: float = 0.3,
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
        >>> import sagefm
        >>> adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
        >>> sagefm.SAGEFM.setup_anndata(adata)
        >>> model = sagefm.SAGEFM(adata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> recovery = model.get_masked_recovery()
        >>> recovery.loc["GENE0001", ["r", "r_neighbors"]].shape
        (2,)
        """
        self._require_training()
        if not 0 < mask_fraction < 1:
            raise ValueError(f"mask_fraction={mask_fraction} must lie between 0 and 1.")
        most = max(int(1 / mask_fraction + 1e-9), 1)
        if not 1 <= n_masks <= most:
            raise ValueError(
                f"n_masks={n_masks} must lie between 1 and {most}: masks of {mask_fraction:.0%} hide each entry once "
                "at most."
            )
        spots = self._spots_of(adata)
        asked = np.zeros(spots.n_obs, dtype=bool)
        asked[checked_rows(indices, spots.n_obs)] = True
        masks = random_masks(np.ravel(seed).tolist(), len(spots.genes), mask_fraction, n_masks)
        fit_section = fit_section and self.module.scale_genes
        moments = [self._moments(spots, mask, asked, batch_size, fit=fit_section) for mask in masks]
        table = recovery_table(moments, spots.genes[spots.known])
        totals = {"mask_fraction": mask_fraction, "n_masks": n_masks, "fit_section": fit_section, "seed": seed}
        table.attrs.update(totals, n_sections=len(moments[0]))
        return table

    def _moments(
        self, spots: Spots, mask: Masks, asked: np.ndarray, batch_size: int | None, *, fit: bool
    ) -> list[Moments]:
        """Sum up truth, prediction and neighbour mean over the masked entries of the `asked` spots of each section."""
        one_pass = OnePass(self.module, spots, batch_size, spots.units_without(mask))
        moments = []
        for name in np.unique(spots.sections[asked]):
            section = spots.sections == name
            rows, scored = np.flatnonzero(section), np.flatnonzero(section & asked & (spots.n_neighbors[:, 0] > 0))
            truth, decoder = _Truth(spots, rows), section_decoder(self.module, one_pass, rows, mask, fit=fit)
            moments.append(Moments.start(truth.total_expression, len(rows)))
            for encoded in one_pass.masked(scored, mask):
                masked = ~encoded.visible.cpu().numpy()[:, spots.known]
                predicted = self._on_truth_scale(decoder.decode(encoded, one_pass), encoded, truth.depth)
                around = truth.neighbor_mean(encoded.rows)
                moments[-1].add(masked, truth.values(encoded.rows), predicted[:, spots.known], around)
        return moments

    @torch.inference_mode()
    def _on_truth_scale(self, logged: Tensor, encoded: Encoded, depth: float) -> np.ndarray:
        """Bring predictions to `log1p` of counts at `depth`, with the library size that the unmasked genes tell."""
        normalization = self.module.normalization
        factor = normalization.depth_factor(encoded.counts, encoded.visible.to(encoded.counts.dtype)) / encoded.factor
        return torch.log1p(torch.expm1(logged) * factor * (depth / normalization.target_depth)).cpu().numpy()


def random_masks(seed: Sequence[int], n_genes: int, mask_fraction: float, n_masks: int = 1) -> list[Masks]:
    """Return random masks that do not overlap; what a spot's are follows from `seed` and its position alone."""

    def mask(rows: np.ndarray, low: float, high: float) -> np.ndarray:
        draws = np.empty((len(rows), n_genes), dtype=np.float32)
        for row, out in zip(rows, draws, strict=True):
            np.random.default_rng([*seed, row]).random(out=out, dtype=np.float32)
        return (low <= draws) & (draws < high)

    edges = (mask_fraction * np.arange(n_masks + 1)).tolist()
    return [partial(mask, low=low, high=high) for low, high in pairwise(edges)]


class _Truth:
    """What was measured in one section: `log1p` of counts scaled to the section's median depth."""

    def __init__(self, spots: Spots, rows: np.ndarray) -> None:
        counts = spots.counts(rows)[:, spots.known]
        depths = np.asarray(counts.sum(axis=1)).ravel()
        self.depth = float(np.median(depths))
        self._logged = sp.csr_matrix(
            sp.diags_array(self.depth / np.maximum(depths, 1)) @ counts, dtype=np.float32
        ).log1p()
        self._operator = spots.mean_operator[rows][:, rows]
        self._position = pd.Series(np.arange(len(rows)), index=rows)

    @property
    def total_expression(self) -> np.ndarray:
        return np.asarray(self._logged.sum(axis=0)).ravel()

    def values(self, rows: np.ndarray) -> np.ndarray:
        return self._logged[self._position[rows].to_numpy()].toarray()

    def neighbor_mean(self, rows: np.ndarray) -> np.ndarray:
        return sparse_matmul_to_dense(self._operator[self._position[rows].to_numpy()], self._logged)
