"""Log-normalised expression, with library sizes that no masked gene leaks into."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn


class Normalization(nn.Module):
    r"""`log1p` of counts, scaled to one library size (`"size"`) or raw as in the SAGE-FM paper (`"none"`).

    The library size of a spot is estimated from its unmasked genes alone:

    .. math:: \hat s_i = \sum_{g\ \text{not masked}} x_{ig} \Big/ \sum_{g\ \text{not masked}} p_g,

    where :math:`p_g` is the share of gene :math:`g` in all counts the model was set up with. So genes that are masked
    or missing from the panel change neither the estimate nor, through it, any other gene. Masks are True where masked.

    Parameters
    ----------
    method
        `"size"` or `"none"`.
    target_depth
        Library size that every spot is scaled to.
    profile
        Share of each gene in all counts, (genes,), summing to one.
    scale_genes
        Whether genes are standardised per section. The buffers `gene_mean` and `gene_scale`, (genes,), then hold the
        mean and standard deviation of each gene over the training spots, on the log scale.

    Attributes
    ----------
    scale_floor
        Added to every standard deviation, in quadrature. Most of the variance of a rare gene on the log scale is
        counting noise; scaled by its standard deviation alone, it would weigh as much as a gene with a spatial pattern.
    """

    scale_floor = 0.4
    target_depth: Tensor
    profile: Tensor
    gene_mean: Tensor
    gene_scale: Tensor

    def __init__(
        self, method: Literal["size", "none"], target_depth: float, profile: np.ndarray, *, scale_genes: bool = False
    ) -> None:
        super().__init__()
        self.method, self.scale_genes = method, scale_genes
        self.register_buffer("target_depth", torch.tensor(float(target_depth)))
        self.register_buffer("profile", torch.from_numpy(np.array(profile, dtype=np.float32)))
        self.register_buffer("gene_mean", torch.zeros(len(profile)))
        self.register_buffer("gene_scale", torch.ones(len(profile)))

    @torch.no_grad()
    def set_moments(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Store the mean and standard deviation of each gene over the training spots, (genes,)."""
        self.gene_mean.copy_(torch.from_numpy(mean))
        self.gene_scale.copy_(torch.from_numpy(deviation))

    def log_sparse(self, counts: sp.csr_matrix, masked: np.ndarray) -> sp.csr_matrix:
        """Return log-normalised `counts`, (n, genes); genes in `masked`, boolean (genes,), are zero."""
        if masked.any():
            counts = sp.csr_matrix((counts.data * ~masked[counts.indices], counts.indices, counts.indptr), counts.shape)
        total = torch.from_numpy(np.asarray(counts.sum(axis=1), dtype=np.float32))
        share = torch.tensor(self.profile.cpu().numpy()[~masked].sum())
        factor = self._factor(total, share) if self.method == "size" else torch.ones_like(total)
        return log_scaled(counts, factor.numpy())

    def log_dense(self, counts: Tensor, mask: Tensor) -> Tensor:
        """Return log-normalised `counts`, zero where `mask`; both (n, genes)."""
        return (counts * self.factor(counts, mask)).log1p_().masked_fill_(mask, 0)

    def factor(self, counts: Tensor, mask: Tensor) -> Tensor:
        """Return the factor that each spot's `counts`, (n, genes), are multiplied by before the log, (n, 1)."""
        return self.depth_factor(counts, mask) if self.method == "size" else torch.ones_like(counts[:, :1])

    def depth_factor(self, counts: Tensor, mask: Tensor) -> Tensor:
        """Return the factor that scales `counts`, (n, genes), to the target depth; `mask` is (1 or n, genes)."""
        unmasked = (~mask).to(counts.dtype)
        with torch.autocast(counts.device.type, enabled=False):  # the products below would be in half precision
            total = counts @ unmasked.T if len(unmasked) == 1 else (counts * unmasked).sum(1, keepdim=True)
            return self._factor(total, unmasked @ self.profile.to(counts)[:, None])

    def _factor(self, total: Tensor, share: Tensor) -> Tensor:
        """Return target depth over library size, given the total and the expected share of the unmasked genes."""
        target, size = self.target_depth.to(total), total / share.clamp_min(1e-12)
        return target / torch.where(size > 0, size, target)


def log_scaled(counts: sp.csr_matrix, factor: np.ndarray) -> sp.csr_matrix:
    """Return `log1p` of each spot's counts times its `factor`, (n,) or (n, 1), as float32."""
    values = counts.data.astype(np.float32)
    values *= np.repeat(factor.ravel().astype(np.float32), np.diff(counts.indptr))
    return sp.csr_matrix((np.log1p(values, out=values), counts.indices, counts.indptr), counts.shape)


def with_current_names(state: Mapping[str, Tensor], own: Normalization) -> dict[str, Tensor]:
    """Return the state of a network under the names of this version; missing constants are the network's `own`.

    Earlier versions stored the moments of genes in the network itself, and depth and profile outside of its state.
    """
    constants = {f"normalization.{name}": state.get(name, value) for name, value in own.named_buffers()}
    weights = {name: value for name, value in state.items() if f"normalization.{name}" not in constants}
    return constants | weights
