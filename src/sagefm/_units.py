"""In which units genes are read and predicted: each by its mean and a scale within the section.

Sections differ in depth, chemistry and patient, and most of that is a shift and a stretch of each gene. What is left
when both are taken out is what sections share. A masked or missing gene then stands at zero, its mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

from sagefm._normalization import Normalization

# A section is taken to have this many more spots, distributed as in training: it steadies small sections.
_PRIOR_SPOTS = 30
# Every standard deviation is taken to be larger by this, in quadrature: most of what a rare gene varies on the log
# scale is counting noise, and in units of that alone it would weigh as much as a gene that tells of tissue.
_SCALE_FLOOR = 0.4


class Units(NamedTuple):
    """Mean and scale of genes on the log scale, each (n, genes) or (1, genes); None where genes are read raw."""

    mean: Tensor | None = None
    scale: Tensor | None = None

    def standardize(self, logged: Tensor, visible: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return log values, (n, genes), in these units, zero where not `visible` (0 or 1, as numbers)."""
        if self.mean is None or self.scale is None:
            return logged * visible
        # One pass where units and what is visible are one row for all spots.
        per_unit = visible / self.scale
        return torch.addcmul(-self.mean * per_unit, logged, per_unit, out=out)

    def restore(self, values: Tensor) -> Tensor:
        """Return values in these units, (n, genes), on the log scale."""
        if self.mean is None or self.scale is None:
            return values
        return values * self.scale + self.mean

    def of_genes(self, genes: Tensor | slice) -> Units:
        """Return the units of some genes, by position."""
        return Units(*(None if values is None else values[:, genes] for values in self))


class GeneUnits:
    """The units of every section of one AnnData.

    Parameters
    ----------
    mean, scale
        (sections, genes), or None where genes are read as they are.
    section
        Number of each spot's section, (n,).
    """

    def __init__(self, mean: np.ndarray | None, scale: np.ndarray | None, section: np.ndarray) -> None:
        self.mean, self.scale, self.section = mean, scale, section

    def of(
        self, rows: np.ndarray, device: torch.device | str = "cpu", genes: np.ndarray | slice = slice(None)
    ) -> Units:
        """Return the units of `genes` in some spots; one row for all where they are of one section."""
        if self.mean is None or self.scale is None:
            return Units()
        sections = self._sections_of(rows)[:, None] if isinstance(genes, np.ndarray) else self._sections_of(rows)
        return Units(*(torch.from_numpy(values[sections, genes]).to(device) for values in (self.mean, self.scale)))

    def scaled(self, rows: np.ndarray, logged: sp.csr_matrix) -> sp.csr_matrix:
        """Return log values of `rows`, (rows, genes), divided by the genes' scales; the :meth:`offset` is left in."""
        if self.scale is None:
            return logged
        sections = self._sections_of(rows)
        if len(sections) == 1:
            scale = torch.from_numpy(self.scale[sections[0]]).index_select(0, torch.from_numpy(logged.indices)).numpy()
        else:
            scale = self.scale[np.repeat(sections, np.diff(logged.indptr)), logged.indices]
        return sp.csr_matrix((logged.data / scale, logged.indices, logged.indptr), logged.shape)

    def offset(self, sections: np.ndarray, visible: np.ndarray) -> np.ndarray | None:
        """Return what remains to be taken off where genes are `visible`, (sections, genes): mean over scale."""
        if self.mean is None or self.scale is None:
            return None
        return self.mean[sections] / self.scale[sections] * visible

    def _sections_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the section of each spot, (rows,), or of all, (1,), where that is one."""
        sections = self.section[rows]
        return sections[:1] if len(sections) and (sections == sections[0]).all() else sections


class Sums:
    """Number of visible entries, sum and sum of squares of every gene in every section, each (sections, genes)."""

    def __init__(self, n_sections: int, n_genes: int) -> None:
        self.n, self.total, self.squares = np.zeros((3, n_sections, n_genes))

    def add(self, section: np.ndarray, logged: sp.csr_matrix | np.ndarray, visible: np.ndarray) -> None:
        """Add spots, (n, genes), of a `section` each, (n,); zero where not `visible`, (genes,) or (n, genes)."""
        for number in np.unique(section):
            members = section == number
            mean, variance = _moments(logged if members.all() else logged[members])
            n = int(members.sum())
            self.total[number] += n * mean
            self.squares[number] += n * (variance + mean**2)
            self.n[number] += n * visible if visible.ndim == 1 else visible[members].sum(0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of every gene over its visible entries, each (sections, genes)."""
        seen = np.maximum(self.n, 1)
        mean = self.total / seen
        return mean, np.maximum(self.squares / seen - mean**2, 0)

    def of_first(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of every gene in the first section, each (genes,)."""
        mean, variance = self.moments()
        return mean[0], np.sqrt(variance[0])


def _moments(logged: sp.csr_matrix | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of every gene, each (genes,)."""
    if isinstance(logged, np.ndarray):
        return logged.mean(0, dtype=np.float64), logged.var(0, dtype=np.float64)
    mean, variance = mean_variance_axis(logged, axis=0)
    return mean.astype(np.float64), variance.astype(np.float64)


def gene_units(
    normalization: Normalization,
    section: np.ndarray,
    pieces: Iterable[tuple[np.ndarray, sp.csr_matrix | np.ndarray, np.ndarray]],
) -> GeneUnits:
    """Find each section's units from `pieces` of rows, log values and what is visible of them.

    A gene that no spot of a section shows has the units that it had in training.
    """
    if normalization.gene_mean is None or normalization.gene_scale is None:
        return GeneUnits(None, None, section)
    sums = Sums(int(section.max(initial=0)) + 1, len(normalization.gene_mean))
    for rows, logged, visible in pieces:
        sums.add(section[rows], logged, visible)
    _, variance = sums.moments()
    weight = sums.n + _PRIOR_SPOTS
    mean = (sums.total + _PRIOR_SPOTS * normalization.gene_mean) / weight
    variance = (sums.n * variance + _PRIOR_SPOTS * normalization.gene_scale**2) / weight
    scale = np.sqrt(variance + _SCALE_FLOOR**2)
    return GeneUnits(mean.astype(np.float32), scale.astype(np.float32), section)
