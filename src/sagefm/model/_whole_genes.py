"""Predictions of genes that are masked in every spot, or missing from the panel."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sagefm.data import Spots, Units
from sagefm.model._gene_levels import estimated_levels, measured_levels, scaled_to_total
from sagefm.module import Encoded, MaskedCenterModule, OnePass

Scale = Literal["log1p", "counts"]


@torch.inference_mode()
def at_training_level(
    module: MaskedCenterModule,
    spots: Spots,
    rows: np.ndarray,
    positions: np.ndarray,
    batch_size: int | None,
    scale: Scale,
) -> np.ndarray:
    """Predict genes, by position, at their levels in the training data, (rows, positions)."""
    genes, values = torch.from_numpy(positions).to(module.device), []
    for piece in OnePass(module, spots, batch_size).unmasked(rows):
        predicted = module.decode(piece.latent, piece.units.of_genes(genes), genes)
        values.append(on_scale(scale, predicted, piece))
    return np.concatenate(values)


def at_section_level(
    module: MaskedCenterModule,
    spots: Spots,
    rows: np.ndarray,
    positions: np.ndarray,
    batch_size: int | None,
    scale: Scale,
) -> np.ndarray:
    """Predict genes, by position, at their levels in each section, (rows, positions)."""
    one_pass, values = OnePass(module, spots, batch_size), np.empty((len(rows), len(positions)), np.float32)
    for name in np.unique(spots.sections[rows]):
        section, places = np.flatnonzero(spots.sections == name), np.flatnonzero(spots.sections[rows] == name)
        predicted = _section_genes(module, spots, one_pass, section, positions, scale)
        values[places] = predicted[np.searchsorted(section, rows[places])]
    return values


@torch.inference_mode()
def _section_genes(
    module: MaskedCenterModule,
    spots: Spots,
    one_pass: OnePass,
    section: np.ndarray,
    positions: np.ndarray,
    scale: Scale,
) -> np.ndarray:
    """Predict genes in all spots of one section, (spots of the section, positions)."""
    genes, pieces = torch.from_numpy(positions).to(module.device), []
    for piece in one_pass.unmasked(section):
        pattern = module.decode_unrectified(piece.latent, Units(), genes)
        parts = pattern, piece.counts[:, genes], piece.factor, library_size(module, piece)
        pieces.append([part.cpu().numpy() for part in parts])
    patterns, counts, factor, size = map(np.concatenate, zip(*pieces, strict=True))
    levels = measured_levels(counts, factor, size, module.normalization.scale_floor)
    if (missing := ~spots.known[positions]).any():
        decoder = module.decoder.weight.detach().cpu().numpy()
        levels = levels.replaced(missing, estimated_levels(spots, section, positions, decoder))
    values = levels.apply(patterns)
    if scale == "log1p":
        return values
    return scaled_to_total(np.expm1(values) / factor, levels.share * size.sum(dtype=np.float64))


def on_scale(scale: Scale, logged: Tensor, encoded: Encoded) -> np.ndarray:
    """Return log-scale predictions as they are, or as expected counts at the estimated library sizes."""
    return (logged if scale == "log1p" else torch.expm1(logged) / encoded.factor).cpu().numpy()


def library_size(module: MaskedCenterModule, encoded: Encoded) -> Tensor:
    """Return the library sizes that are estimated from the unmasked genes of spots, (n, 1)."""
    return module.normalization.target_depth / module.normalization.depth_factor(encoded.counts, encoded.mask)
