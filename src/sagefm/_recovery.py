"""How well masked genes are recovered, gene by gene, beside the mean of the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy.stats import false_discovery_control, norm, t
from scvi.model.base import BaseModelClass
from sklearn.utils.sparsefuncs import sparse_matmul_to_dense

from sagefm._data import Spots
from sagefm._imputation import checked_rows
from sagefm._inference import Encoded, OnePass

TOP = 500
_ROUNDING = 1e-12  # what rounding leaves of the mean square where nothing varies, in float64


class RecoveryMixin(BaseModelClass):
    """`get_masked_recovery`, for :class:`sagefm.SAGEFM`."""

    def get_masked_recovery(
        self,
        adata: AnnData | None = None,
        *,
        mask_fraction: float = 0.3,
        n_masks: int = 1,
        seed: int = 0,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Mask genes at random, predict them, and correlate with the truth, gene by gene.

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
            in ten are scored instead of three, so correlations are more certain, in three times the time.
        seed
            Seed of the masks.
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
            ``top500_share_q05``; and ``mask_fraction``, ``n_masks``, ``seed``, ``n_sections``.

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
        most = max(int(1 / mask_fraction + _ROUNDING), 1)
        if not 1 <= n_masks <= most:
            raise ValueError(
                f"n_masks={n_masks} must lie between 1 and {most}: masks of {mask_fraction:.0%} hide each entry once "
                "at most."
            )
        spots = self._spots_of(adata)
        asked = np.zeros(spots.n_obs, dtype=bool)
        asked[checked_rows(indices, spots.n_obs)] = True
        rng = np.random.default_rng(seed)
        sections = [
            self._section_moments(spots, spots.sections == name, asked, mask_fraction, rng, batch_size, n_masks)
            for name in np.unique(spots.sections[asked])
        ]
        table = recovery_table(sections, spots.genes[spots.known])
        table.attrs.update(mask_fraction=mask_fraction, n_masks=n_masks, seed=seed, n_sections=len(sections))
        return table

    @torch.inference_mode()
    def _section_moments(
        self,
        spots: Spots,
        section: np.ndarray,
        asked: np.ndarray,
        mask_fraction: float,
        rng: np.random.Generator,
        batch_size: int | None,
        n_masks: int = 1,
    ) -> Moments:
        """Sum up truth, prediction and neighbour mean over the masked entries of the `asked` spots of one `section`."""
        truth = _Truth(spots, np.flatnonzero(section))
        scored = np.flatnonzero(section & asked & (spots.n_neighbors[:, 0] > 0))
        moments = Moments.start(truth.total_expression, int(section.sum()))
        one_pass, state = OnePass(self.module, spots, batch_size), rng.bit_generator.state
        for low, high in pairwise((mask_fraction * np.arange(n_masks + 1)).tolist()):
            rng.bit_generator.state = state  # every mask takes another part of the same draws

            def masks(piece: np.ndarray, low: float = low, high: float = high) -> np.ndarray:
                draws = rng.random((len(piece), len(spots.genes)), dtype=np.float32)
                return (low <= draws) & (draws < high)

            # Masked entries count in the section's mean and deviation of a gene, which are the same for all spots: r
            # does not see them.
            for encoded in one_pass.masked(scored, masks):
                masked = ~encoded.visible.cpu().numpy()[:, spots.known]
                predicted = self._on_truth_scale(encoded, truth.depth)[:, spots.known]
                moments.add(masked, truth.values(encoded.rows), predicted, truth.neighbor_mean(encoded.rows))
        return moments

    def _on_truth_scale(self, encoded: Encoded, depth: float) -> np.ndarray:
        """Bring predictions to `log1p` of counts at `depth`, with the library size that the unmasked genes tell."""
        normalization = self.module.normalization
        expected = torch.expm1(self.module.decode(encoded.latent, encoded.units)) / encoded.factor
        factor = normalization.depth_factor(encoded.counts, encoded.visible.to(encoded.counts.dtype))
        return torch.log1p(expected * factor * (depth / normalization.target_depth)).cpu().numpy()


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


class Moments:
    """Sums over the masked entries of each gene, from which correlations follow without keeping the entries.

    Parameters
    ----------
    sums
        (9, genes): n, x, y, z, xx, yy, zz, xy, xz of truth x, prediction y and neighbour mean z.
    expression
        (genes,): truth summed over all spots, masked or not.
    n_spots
        Number of all spots.
    """

    def __init__(self, sums: np.ndarray, expression: np.ndarray, n_spots: int) -> None:
        self.sums, self.expression, self.n_spots = sums, expression, n_spots

    @classmethod
    def start(cls, expression: np.ndarray, n_spots: int) -> Moments:
        """Start with no masked entry."""
        return cls(np.zeros((9, len(expression))), expression, n_spots)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.sums + other.sums, self.expression + other.expression, self.n_spots + other.n_spots)

    def add(self, mask: np.ndarray, truth: np.ndarray, predicted: np.ndarray, neighbors: np.ndarray) -> None:
        """Add spots, each array (spots, genes)."""
        x, y, z = (np.where(mask, values, 0).astype(np.float64) for values in (truth, predicted, neighbors))
        products = (mask, x, y, z, x * x, y * y, z * z, x * y, x * z)
        self.sums += np.stack([product.sum(axis=0) for product in products])

    @property
    def n(self) -> np.ndarray:
        """Number of masked entries of each gene."""
        return self.sums[0]

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the correlation of truth with prediction and with neighbour mean, each (genes,)."""
        n, x, y, z, xx, yy, zz, xy, xz = self.sums
        return _correlation(n, x, xx, y, yy, xy), _correlation(n, x, xx, z, zz, xz)


def _correlation(n, x, xx, y, yy, xy) -> np.ndarray:
    n = np.maximum(n, 1)
    truth_variance, variance, covariance = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
    flat_truth, flat = truth_variance <= _ROUNDING * xx / n, variance <= _ROUNDING * yy / n
    spread = np.sqrt(np.where(flat_truth | flat, 1, truth_variance * variance))
    return np.where(flat_truth, np.nan, np.where(flat, 0, (covariance / spread).clip(-1, 1)))


def recovery_table(sections: list[Moments], genes: pd.Index) -> pd.DataFrame:
    """Join the sections' moments to the table of :meth:`RecoveryMixin.get_masked_recovery`."""
    pooled = reduce(add, sections)
    n = np.stack([section.n for section in sections])
    within, within_neighbors = (np.stack(r) for r in zip(*(s.correlations() for s in sections), strict=True))
    r, p = fisher_average(within, n)
    r_pooled = pooled.correlations()[0]
    table = pd.DataFrame(
        {
            "r": r,
            "r_neighbors": fisher_average(within_neighbors, n)[0],
            "r_pooled": r_pooled,
            "p": p,
            "q": _q_values(p),
            "p_pooled": _pearson_p(r_pooled, pooled.n),
            "n": pooled.n.astype(int),
            "mean_expression": pooled.expression / pooled.n_spots,
        },
        index=genes,
    )
    table.attrs.update(_totals(table))
    return table


def fisher_average(r: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average correlations (sections, genes) over sections by Fisher's z; returns r and its two-sided p, (genes,)."""
    weights = np.where(np.isnan(r), 0, np.maximum(n - 3, 0))
    total = weights.sum(axis=0)
    z = np.arctanh(np.nan_to_num(r).clip(-1 + 1e-9, 1 - 1e-9))
    mean = np.where(total > 0, (weights * z).sum(axis=0) / np.maximum(total, 1), np.nan)
    return np.tanh(mean), 2 * norm.sf(np.abs(mean) * np.sqrt(total))


def _pearson_p(r: np.ndarray, n: np.ndarray) -> np.ndarray:
    degrees = np.maximum(n - 2, 1)
    return 2 * t.sf(np.abs(r) * np.sqrt(degrees / np.maximum(1 - r**2, 1e-300)), degrees)


def _q_values(p: np.ndarray) -> np.ndarray:
    q = np.full_like(p, np.nan)
    tested = np.isfinite(p)
    q[tested] = false_discovery_control(p[tested])
    return q


def _totals(table: pd.DataFrame) -> dict[str, float]:
    tested = table[table["r"].notna()]
    top = tested.nlargest(TOP, "mean_expression")
    found = (tested["q"] < 0.05) & (tested["r"] > 0)
    return {
        "n_genes": len(tested),
        "share_p05": float((tested["p_pooled"] < 0.05).mean()),
        "share_q05": float(found.mean()),
        "median_r": float(tested["r"].median()),
        "median_r_neighbors": float(tested["r_neighbors"].median()),
        f"top{TOP}_r": float(top["r"].mean()),
        f"top{TOP}_r_neighbors": float(top["r_neighbors"].mean()),
        f"top{TOP}_share_q05": float(found[top.index].mean()),
    }
