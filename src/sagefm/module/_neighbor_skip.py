r"""Weight of a gene's mean over the neighbours in the prediction, estimated from the section's own entries.

A latent representation of a few dozen numbers cannot carry what only one gene does in one section. In a deep section
the gene's own mean over the neighbours indicates that well; in a shallow one it is mostly counting noise. On the
standardised scale, gene :math:`g` of spot :math:`i` is predicted as

.. math:: W_g \cdot z_i + c_g + a_g m_{ig}, \quad
    a_g = \kappa\, \frac{\sum_i (x_{ig} - \bar x_g)(m_{ig} - \bar m_g)}{\sum_i (m_{ig} - \bar m_g)^2 + \lambda},

with the mean :math:`m_{ig}` of the gene over the neighbours, sums over the unmasked entries :math:`x_{ig}` of the
section, and :math:`a_g` limited to the range from 0 to :math:`\kappa`. The fraction estimates the share of the variance
of :math:`m` that is signal, shrunk towards zero in sections with few spots; :math:`\kappa` is the part of that signal
that the network leaves unexplained.
"""

import numpy as np
import torch
from torch import Tensor

from sagefm.data import Mask
from sagefm.module._module import MaskedCenterModule
from sagefm.module._one_pass import OnePass


@torch.inference_mode()
def neighbor_skip(module: MaskedCenterModule, one_pass: OnePass, rows: np.ndarray, mask: Mask) -> Tensor:
    """Return the weight of each gene's mean over the neighbours, (genes,), from the entries of `rows` not in `mask`."""
    sums = torch.zeros(5, module.decoder.out_features, dtype=torch.float64)
    for piece in one_pass.compact_pieces(rows):
        # Masked entries of neighbours do not enter the mean: they would take part in their own prediction.
        means = one_pass.neighborhood_inputs(piece, mask)
        x, masked = one_pass.inputs(piece, mask[piece])
        sums += _sums((~masked).to(x), x, means)
    settings = module.section_fit
    return settings.skip_share * _signal_share(sums, settings.skip_penalty).to(module.decoder.weight)


def _sums(unmasked: Tensor, x: Tensor, means: Tensor) -> Tensor:
    """Return number, totals and products of the `unmasked` (0 or 1) entries, from (n, genes): (5, genes)."""
    means = means * unmasked
    return torch.stack([values.sum(0).cpu().double() for values in (unmasked, x, means, x * means, means * means)])


def _signal_share(sums: Tensor, penalty: float) -> Tensor:
    n, x, mean, product, square = sums
    n = n.clamp_min(1)
    return ((product - x * mean / n) / (square - mean**2 / n + penalty)).clamp(0, 1)
