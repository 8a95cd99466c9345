"""From counts to the scale on which the network reads and predicts, without letting a hidden gene leak in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    r"""`log1p` of counts, scaled to one depth (`"size"`) or raw as in the SAGE-FM paper (`"none"`).

    The library size of a spot is estimated from its visible genes alone:

    .. math:: \hat s_i = \sum_{g\ \text{visible}} x_{ig} \Big/ \sum_{g\ \text{visible}} p_g,

    where :math:`p_g` is the share of gene :math:`g` in all counts the model was set up with. What is masked, hidden or
    absent from the panel thus moves neither the estimate nor, through it, any other gene.

    Parameters
    ----------
    method
        `"size"` or `"none"`.
    target_depth
        Counts that every spot is scaled to.
    profile
        Share of each gene in all counts, shape (genes,), summing to one.
    gene_mean, gene_scale
        Mean and standard deviation of each gene on the log scale over the training spots, (genes,); none where genes
        are read as they are.
    """

    method: Literal["size", "none"]
    target_depth: float
    profile: np.ndarray
    gene_mean: np.ndarray | None = None
    gene_scale: np.ndarray | None = None

    def library_size(self, visible_counts: sp.csr_matrix, visible: np.ndarray) -> np.ndarray:
        """Estimate the library size of each spot, (n,), from the counts of its `visible` genes, boolean (genes,)."""
        total = np.asarray(visible_counts.sum(axis=1)).ravel()
        size = total / max(float(self.profile[visible].sum()), 1e-12)
        return np.where(size > 0, size, self.target_depth)

    def log(self, counts: sp.csr_matrix, visible: np.ndarray) -> sp.csr_matrix:
        """Return `counts`, (n, genes), of the genes in `visible`, boolean (genes,), on the log scale."""
        values = counts.data.astype(np.float32)
        if not visible.all():
            values *= visible[counts.indices]
        logged = sp.csr_matrix((values, counts.indices, counts.indptr), counts.shape)
        if self.method == "size":
            scale = (self.target_depth / self.library_size(logged, visible)).astype(np.float32)
            values *= np.repeat(scale, np.diff(logged.indptr))
        np.log1p(values, out=values)
        return logged

    def log_dense(self, counts: Tensor, visible: Tensor) -> Tensor:
        """Return `counts` where `visible`, both (n, genes), on the log scale, zero elsewhere."""
        shown = visible.to(counts.dtype)
        return (counts * self.factor(counts, shown)).log1p_().mul_(shown)

    def factor(self, counts: Tensor, visible: Tensor) -> Tensor:
        """Return what counts, (n, genes), are scaled by before the log is taken, (n, 1), told by the visible ones."""
        return self.depth_factor(counts, visible) if self.method == "size" else torch.ones_like(counts[:, :1])

    def depth_factor(self, counts: Tensor, visible: Tensor) -> Tensor:
        """Return what brings counts, (n, genes), to the target depth, (n, 1); `visible`, 0 or 1, is (1 or n, genes)."""
        profile = torch.as_tensor(self.profile, dtype=counts.dtype, device=counts.device)
        with torch.autocast(counts.device.type, enabled=False):  # the products below would be of half precision
            total = counts @ visible.T if len(visible) == 1 else (counts * visible).sum(1, keepdim=True)
            size = total / (visible @ profile[:, None]).clamp_min(1e-12)
        return self.target_depth / torch.where(size > 0, size, self.target_depth)
