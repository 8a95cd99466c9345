"""Per-section standardisation of genes.

Sections differ in depth, chemistry and patient, which mostly shifts and scales each gene. Standardisation leaves what
sections have in common, and a masked or missing gene is zero, its mean.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

from sagefm.data._normalization import Normalization

# Each section's moments are shrunk towards those of training as if it had this many more spots, for small sections.
PRIOR_SPOTS = 30

Genes = np.ndarray | slice  # positions of genes


class Units(NamedTuple):
    """Mean and scale of genes on the log scale, each (n, genes) or (1, genes); None without standardisation."""

    mean: Tensor | None = None
    scale: Tensor | None = None

    def standardize(self, logged: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return log values, (n, genes), standardised and zero where `mask`, boolean (1 or n, genes)."""
        if self.mean is None or self.scale is None:
            return logged.masked_fill(mask, 0)
        # One pass over `logged` if mean, scale and mask are one row for all spots.
        per_unit = ~mask / self.scale
        return torch.addcmul(-self.mean * per_unit, logged, per_unit, out=out)

    def restore(self, values: Tensor) -> Tensor:
        """Return standardised values, (n, genes), on the log scale."""
        if self.mean is None or self.scale is None:
            return values
        return values * self.scale + self.mean

    def of_genes(self, genes: Tensor | slice) -> "Units":
        """Return mean and scale of some genes, by position."""
        return Units(*(None if values is None else values[:, genes] for values in self))

    def of_spots(self, section: Tensor) -> "Units":
        """Return mean and scale for spots, given the row of each spot's section, (n,)."""
        return Units(*(None if values is None else of_spots(values, section) for values in self))


def of_spots(table: Tensor, section: Tensor) -> Tensor:
    """Return the rows of a `table` of sections for spots, (n, genes), or its only row, (1, genes)."""
    return table if len(table) == 1 else table.index_select(0, section)


class SectionUnits:
    """Mean and scale of genes in every section.

    Parameters
    ----------
    mean, scale
        (sections, genes), or None without standardisation.
    section
        Number of each spot's section, (n,).
    """

    def __init__(self, mean: np.ndarray | None, scale: np.ndarray | None, section: np.ndarray) -> None:
        self.mean, self.scale, self.section = mean, scale, section

    def of(self, rows: np.ndarray, device: torch.device | str = "cpu", genes: Genes = slice(None)) -> Units:
        """Return mean and scale of `genes` in some spots, or a single row if all are from one section."""
        return self.of_sections(self._sections_of(rows), device, genes)

    def of_sections(self, sections: np.ndarray, device: torch.device | str, genes: Genes = slice(None)) -> Units:
        """Return mean and scale of `genes` in some sections, by number."""
        if self.mean is None or self.scale is None:
            return Units()
        return Units(*(torch.from_numpy(values[:, genes][sections]).to(device) for values in (self.mean, self.scale)))

    def scale_sparse(self, rows: np.ndarray, logged: sp.csr_matrix) -> sp.csr_matrix:
        """Return log values of `rows`, (rows, genes), divided by the scales of genes; means are not subtracted."""
        if self.scale is None:
            return logged
        sections = self._sections_of(rows)
        if len(sections) == 1:
            scale = torch.from_numpy(self.scale[sections[0]]).index_select(0, torch.from_numpy(logged.indices)).numpy()
        else:
            scale = self.scale[np.repeat(sections, np.diff(logged.indptr)), logged.indices]
        return sp.csr_matrix((logged.data / scale, logged.indices, logged.indptr), logged.shape)

    def _sections_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the section of each spot, (rows,), or (1,) if all are from one section."""
        sections = self.section[rows]
        return sections[:1] if len(sections) and (sections == sections[0]).all() else sections


class GeneMoments:
    """Number of unmasked entries, sum and sum of squares of every gene in every section, each (sections, genes)."""

    def __init__(self, n_sections: int, n_genes: int) -> None:
        self.n, self.total, self.squares = np.zeros((3, n_sections, n_genes))

    def add(self, section: np.ndarray, logged: sp.csr_matrix | np.ndarray, mask: np.ndarray) -> None:
        """Add spots, (n, genes), with their `section`, (n,); they are zero where `mask`, (genes,) or (n, genes)."""
        for number in np.unique(section):
            members = section == number
            mean, variance = _moments(logged if members.all() else logged[members])
            n = int(members.sum())
            self.total[number] += n * mean
            self.squares[number] += n * (variance + mean**2)
            self.n[number] += n * ~mask if mask.ndim == 1 else (~mask[members]).sum(0)

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of every gene over its unmasked entries, each (sections, genes)."""
        n = np.maximum(self.n, 1)
        mean = self.total / n
        return mean, np.maximum(self.squares / n - mean**2, 0)


def _moments(logged: sp.csr_matrix | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of every gene, each (genes,)."""
    if isinstance(logged, np.ndarray):
        return logged.mean(0, dtype=np.float64), logged.var(0, dtype=np.float64)
    mean, variance = mean_variance_axis(logged, axis=0)
    return mean.astype(np.float64), variance.astype(np.float64)


def section_units(
    normalization: Normalization,
    section: np.ndarray,
    pieces: Iterable[tuple[np.ndarray, sp.csr_matrix | np.ndarray, np.ndarray]],
) -> SectionUnits:
    """Estimate each section's mean and scale from `pieces`: rows, their log values and their mask.

    A gene that is masked in every spot of a section gets its moments from training.
    """
    if not normalization.scale_genes:
        return SectionUnits(None, None, section)
    prior_mean, prior_scale = normalization.gene_mean.cpu().numpy(), normalization.gene_scale.cpu().numpy()
    sums = GeneMoments(int(section.max(initial=0)) + 1, len(prior_mean))
    for rows, logged, mask in pieces:
        sums.add(section[rows], logged, mask)
    _, variance = sums.mean_and_variance()
    weight = sums.n + PRIOR_SPOTS
    mean = (sums.total + PRIOR_SPOTS * prior_mean) / weight
    variance = (sums.n * variance + PRIOR_SPOTS * prior_scale**2) / weight
    scale = np.sqrt(variance + normalization.scale_floor**2)
    return SectionUnits(mean.astype(np.float32), scale.astype(np.float32), section)
