r"""Ridge fit of the decoder to the unmasked entries of one section.

From other tissue, the network has learnt which genes vary together. What else holds in one section, and how much the
level of a gene around a spot indicates its level in the spot, is estimated from that section. On the standardised
scale, gene :math:`g` of spot :math:`i` is predicted as

.. math:: c_g + W_g \cdot z_i + w_g \cdot f_i + a_g m_{ig}

with the network's decoder :math:`W, c` and latent representation :math:`z_i`; the features :math:`f_i`, which are
:math:`z_i` and the scores of the spot and of its neighbours' mean on the first principal components of the section; and
the mean :math:`m_{ig}` of the gene over the neighbours. :math:`w_g` and :math:`a_g` are fitted by ridge regression to
the unmasked entries. Each of these is masked in its own spot while it is predicted.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from sagefm.data import Mask
from sagefm.module._module import MaskedCenterModule, SectionFit
from sagefm.module._neighbor_skip import neighbor_skip
from sagefm.module._one_pass import Encoded, OnePass

_N_FOLDS = 3  # of the unmasked entries; one at a time is held out and predicted
_SAMPLED_ENTRIES = 2**26  # (256 MB) of the spots that the components of a section are estimated from


class SectionDecoder(NamedTuple):
    """A linear decoder: the network's, or one fitted to a section.

    The network's has weights (genes, latent), a bias (genes,) and weights of the gene's mean over the neighbours,
    (genes,). A fitted one has weights of all features, (genes, features), and the components, (genes, components).
    """

    weight: Tensor
    bias: Tensor
    neighbors: Tensor | None = None
    components: Tensor | None = None

    @torch.inference_mode()
    def decode(self, encoded: Encoded, one_pass: OnePass) -> Tensor:
        """Predict all genes of some spots on the log scale, (n, genes)."""
        if self.neighbors is None:
            values = torch.addmm(self.bias, encoded.latent, self.weight.T)
        else:
            means = one_pass.neighborhood_inputs(encoded.rows)
            features = encoded.latent if self.components is None else _features(encoded, means, self.components)
            values = torch.addmm(self.bias, features, self.weight.T).addcmul_(means, self.neighbors)
        return encoded.units.restore(values).relu_()


@torch.inference_mode()
def section_decoder(
    module: MaskedCenterModule, one_pass: OnePass, rows: np.ndarray, mask: Mask, *, fit: bool
) -> SectionDecoder:
    """Return the network's decoder with :func:`neighbor_skip`, or with `fit`, one fitted to the section `rows`.

    Neither uses the entries in `mask`. Without standardisation of genes it is the network's decoder and nothing else.
    """
    weight, bias = module.decoder.weight, module.decoder.bias
    if not module.scale_genes:
        return SectionDecoder(weight, bias)
    if not fit:
        return SectionDecoder(weight, bias, neighbor_skip(module, one_pass, rows, mask))
    n_genes, n_latent = weight.shape
    sample = np.random.default_rng(0).permutation(rows)[: max(_SAMPLED_ENTRIES // n_genes, 1)]
    components = _components(one_pass.inputs(sample, mask[sample])[0], module.section_fit.n_components)
    widths = [n_latent, components.shape[1], components.shape[1]]
    sums = RidgeSums(n_genes, sum(widths))
    for piece in one_pass.compact_pieces(rows):
        # Masked entries of neighbours do not enter the mean: they would take part in their own prediction.
        masked, fold, means = mask[piece], _folds(piece, n_genes), one_pass.neighborhood_inputs(piece, mask)
        x, unusable = one_pass.inputs(piece, masked)
        target, projected = x.sub_(bias), module.encoder.conv1.project_neighbor(means)
        for number in range(_N_FOLDS):
            held_out = fold == number
            features = _features(one_pass.encode(piece, projected, masked | held_out), means, components)
            scored = (~unusable & torch.from_numpy(held_out).to(unusable.device)).to(target)
            sums.add(scored, target, means, features)
    start = np.pad(_numpy(weight), ((0, 0), (0, sum(widths[1:]))))
    fitted = sums.solve(start, widths, module.section_fit)
    weights, neighbors = (torch.from_numpy(values).to(weight) for values in fitted)
    return SectionDecoder(weights, bias, neighbors, components)


def _features(encoded: Encoded, means: Tensor, components: Tensor) -> Tensor:
    return torch.cat([encoded.latent, encoded.x @ components, means @ components], dim=1)


def _components(x: Tensor, n_components: int) -> Tensor:
    """Return the first principal components of the inputs of some spots, (n, genes): (genes, components)."""
    _, _, components = randomized_svd(x.cpu().numpy(), min(n_components, *x.shape), random_state=0)
    return torch.from_numpy(np.ascontiguousarray(components.T)).to(x)


def _folds(rows: np.ndarray, n_genes: int) -> np.ndarray:
    """Draw the fold of each entry, (rows, genes); the folds of a spot depend on its position only."""
    return np.stack([np.random.default_rng([0, row]).integers(_N_FOLDS, size=n_genes, dtype=np.int8) for row in rows])


class RidgeSums:
    """Sums over held-out entries, from which the regression of each gene is solved.

    Products of two features are summed over all spots, not gene by gene: entries are held out at random, so that the
    sums of all genes agree, up to the number of entries.
    """

    def __init__(self, n_genes: int, n_features: int) -> None:
        self.n, self.mm, self.my = np.zeros((3, n_genes))
        self.mf, self.yf = np.zeros((2, n_genes, n_features))
        self.ff, self.n_spots = np.zeros((n_features, n_features)), 0

    def add(self, scored: Tensor, target: Tensor, means: Tensor, features: Tensor) -> None:
        """Add spots.

        Whether each entry is scored (0 or 1), its true value and the mean over the neighbours, each (n, genes); and
        features, (n, features).
        """
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

        The weights of the features are shrunk towards `start`, (genes, features). Consecutive features make up parts of
        these `widths`.
        """
        # Scale all parts to the same size, and rotate the features so that products of two different ones vanish.
        ff = self.ff / max(self.n_spots, 1)
        size = np.repeat([part.sum() for part in np.split(np.diag(ff), np.cumsum(widths[:-1]))], widths)
        per_size = 1 / np.sqrt(np.where(size > 0, size, 1))
        squares, axes = np.linalg.eigh(ff * np.outer(per_size, per_size))
        to_axes = per_size[:, None] * axes
        start, mf, yf = (start / per_size) @ axes, self.mf @ to_axes, self.yf @ to_axes
        ff = self.n[:, None] * squares
        rf, rm = yf - ff * start, self.my - (mf * start).sum(axis=1)  # of the network's residuals, r = y - W z
        penalized = ff + settings.feature_penalty
        # First a, with the part explained by the features removed from m and r; then w from what remains.
        mm = np.maximum(self.mm - (mf**2 / penalized).sum(axis=1), 0)
        a = (rm - (mf * rf / penalized).sum(axis=1)) / (mm + settings.neighbor_penalty)
        w = (rf - a[:, None] * mf) / penalized
        return (start + w) @ to_axes.T, a


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()  # in this order: not every device has doubles
