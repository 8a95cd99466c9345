r"""Ridge fit of the decoder to the visible entries of one section.

The network has learnt from other tissue which genes vary together. What else holds in one section, and how much a
gene's own level around a spot indicates there, is estimated from that section. On the standardised scale, gene
:math:`g` of spot :math:`i` is predicted as

.. math:: c_g + W_g \cdot z_i + w_g \cdot f_i + a_g m_{ig}

with the network's decoder :math:`W, c` and latent representation :math:`z_i`; :math:`f_i`, that representation
together with the scores of the spot and of its neighbours' mean on the first principal components of the section; and
the mean :math:`m_{ig}` of the gene over the neighbours. :math:`w_g` and :math:`a_g` are fitted by ridge regression to
the visible entries, each of which is masked in its spot while it is predicted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from sagefm.data import Mask
from sagefm.module._module import MaskedCenterModule, SectionFit
from sagefm.module._one_pass import Encoded, OnePass

_FOLDS = 3  # parts that the visible entries are cut into; one at a time is masked and predicted
_SAMPLED_ENTRIES = 2**26  # (256 MB) of the spots that the components of a section are estimated from


class SectionDecoder(NamedTuple):
    """The network's decoder, weights (genes, latent) and bias (genes,); or one fitted to a section.

    The latter has weights of all features, (genes, features), and of the gene's own mean over the neighbours, (genes,),
    and the components, (genes, components).
    """

    weight: Tensor
    bias: Tensor
    neighbors: Tensor | None = None
    components: Tensor | None = None

    @torch.inference_mode()
    def decode(self, encoded: Encoded, one_pass: OnePass) -> Tensor:
        """Predict all genes of some spots on the log scale, (n, genes)."""
        if self.neighbors is None or self.components is None:
            values = torch.addmm(self.bias, encoded.latent, self.weight.T)
        else:
            means = one_pass.neighborhood_inputs(encoded.rows)
            values = torch.addmm(self.bias, _features(encoded, means, self.components), self.weight.T)
            values.addcmul_(means, self.neighbors)
        return encoded.units.restore(values).relu_()


@torch.inference_mode()
def section_decoder(
    module: MaskedCenterModule, one_pass: OnePass, rows: np.ndarray, mask: Mask, *, fit: bool
) -> SectionDecoder:
    """Return the network's decoder, or one fitted to the section whose spots are `rows`.

    The fit does not use the entries in `mask`. Without standardisation of genes there is no fit.
    """
    weight, bias = module.decoder.weight, module.decoder.bias
    if not (fit and module.scale_genes):
        return SectionDecoder(weight, bias)
    settings = module.section_fit
    components = _components(one_pass, rows, mask, settings.n_components).to(weight)
    n_genes, n_components = components.shape
    widths = [weight.shape[1], n_components, n_components]
    sums = RidgeSums(n_genes, sum(widths))
    for piece in one_pass.compact_pieces(rows):
        # Masked entries of neighbours are left out, too: they would take part in their own prediction.
        masked, fold, means = mask[piece], _folds(piece, n_genes), one_pass.neighborhood_inputs(piece, mask)
        target, unusable = one_pass.inputs(piece, masked)
        target, projected = target.sub_(bias), one_pass.project_neighbors(means)
        for number in range(_FOLDS):
            held_out = fold == number
            features = _features(one_pass.encode(piece, projected, masked | held_out), means, components)
            scored = (~unusable & torch.from_numpy(held_out).to(unusable.device)).to(target)
            sums.add(scored, target, means, features)
    start = np.pad(_numpy(weight), ((0, 0), (0, 2 * n_components)))
    found = (torch.from_numpy(weights).to(weight) for weights in sums.solve(start, widths, settings))
    return SectionDecoder(next(found), bias, next(found), components)


def _features(encoded: Encoded, means: Tensor, components: Tensor) -> Tensor:
    return torch.cat([encoded.latent, encoded.x @ components, means @ components], dim=1)


def _components(one_pass: OnePass, rows: np.ndarray, mask: Mask, n_components: int) -> Tensor:
    """Return the first principal components of the unmasked entries of a section, (genes, components)."""
    n_genes = mask[rows[:1]].shape[1]
    sample = np.random.default_rng(0).permutation(rows)[: max(_SAMPLED_ENTRIES // n_genes, 1)]
    x = one_pass.inputs(sample, mask[sample])[0].cpu().numpy()
    n_components = min(n_components, *x.shape)
    return torch.from_numpy(np.ascontiguousarray(randomized_svd(x, n_components, random_state=0)[2].T))


def _folds(rows: np.ndarray, n_genes: int) -> np.ndarray:
    """Draw which part each entry belongs to, (rows, genes): for a spot always the same."""
    return np.stack([np.random.default_rng([0, row]).integers(_FOLDS, size=n_genes, dtype=np.int8) for row in rows])


class RidgeSums:
    """Sums over hidden entries, from which the regression follows gene by gene.

    Products of two features are summed over all spots, not gene by gene: what is hidden for the fit is drawn at random,
    so these agree but for the number of entries.
    """

    def __init__(self, n_genes: int, n_features: int) -> None:
        self.n, self.mm, self.my = np.zeros((3, n_genes))
        self.mf, self.yf = np.zeros((2, n_genes, n_features))
        self.ff, self.n_spots = np.zeros((n_features, n_features)), 0

    def add(self, scored: Tensor, target: Tensor, means: Tensor, features: Tensor) -> None:
        """Add spots: which entries are scored, 0 or 1, their truth and neighbour mean, (n, genes), and features."""
        y, m = target * scored, means * scored
        self.n += _numpy(scored.sum(0))
        self.mm += _numpy((m * means).sum(0))
        self.my += _numpy((m * target).sum(0))
        self.mf += _numpy(m.T @ features)
        self.yf += _numpy(y.T @ features)
        self.ff += _numpy(features.T @ features)
        self.n_spots += len(features)

    def solve(self, start: np.ndarray, widths: list[int], settings: SectionFit) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of the features, (genes, features), and of the neighbours, (genes,).

        The former depart from `start`, (genes, features), no further than the section tells. The features are parts of
        these `widths`.
        """
        # Parts of one size; and along the axes of all features, the products of two different ones vanish.
        ff = self.ff / max(self.n_spots, 1)
        size = np.repeat([part.sum() for part in np.split(np.diag(ff), np.cumsum(widths[:-1]))], widths)
        per_size = 1 / np.sqrt(np.where(size > 0, size, 1))
        squares, axes = np.linalg.eigh(ff * np.outer(per_size, per_size))
        to_axes = per_size[:, None] * axes
        start, mf, yf = (start / per_size) @ axes, self.mf @ to_axes, self.yf @ to_axes
        ff = self.n[:, None] * squares
        rf, rm = yf - ff * start, self.my - (mf * start).sum(axis=1)  # of what the network leaves, r = y - W z
        penalized = ff + settings.feature_penalty
        # First a, with what the features tell taken out of m and r, then w of what is left.
        own = np.maximum(self.mm - (mf**2 / penalized).sum(axis=1), 0)
        a = (rm - (mf * rf / penalized).sum(axis=1)) / (own + settings.neighbor_penalty)
        w = (rf - a[:, None] * mf) / penalized
        return (start + w) @ to_axes.T, a


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()  # in this order: not every device has doubles
