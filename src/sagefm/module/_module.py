"""The network: an encoder of a spot and its neighbourhood, a linear decoder, and the masked-centre objective."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from sagefm.data import (
    ABSENT_KEY,
    N_NEIGHBORS_KEY,
    NEIGHBORS_KEY,
    SECTION_KEY,
    UNIT_MEAN_KEY,
    UNIT_SCALE_KEY,
    Normalization,
    Units,
    of_spots,
    with_current_names,
)
from sagefm.module._encoder import Encoder

MASK_FRACTION = 0.3  # of the genes, as in the SAGE-FM paper

Tensors = dict[str, Tensor]


class SectionFit(NamedTuple):
    r"""Settings of what is estimated from one section; see :func:`section_decoder` and :func:`neighbor_skip`.

    Of the ridge fit: number of principal components of the section; penalty on :math:`w`, relative to the sum of
    squares of each part of :math:`f`; penalty on :math:`a`. Of the skip: :math:`\kappa` (0 for the network alone) and
    :math:`\lambda`.
    """

    n_components: int = 10
    feature_penalty: float = 400.0
    neighbor_penalty: float = 50.0
    skip_share: float = 0.5
    skip_penalty: float = 25.0


class MaskedCenterModule(BaseModuleClass):
    """Predict the masked genes of a spot from its other genes and from its neighbours.

    Masks are boolean, True where masked.

    Parameters
    ----------
    normalization
        From counts to the scale of the network's input and output.
    widths, conv, dropout_rate
        See :class:`Encoder`.
    mask_fraction
        Probability with which each gene of a centre is masked; a new mask is drawn at every training step.
    neighbor_weight, shrinkage
        Initialisation from PCA: weight of the mean of the neighbours, which is much less noisy than the spot, relative
        to the spot; and factor by which the sum of both is shrunk.
    depth_power
        Power of the library size by which spots are weighted in the loss: 1 would be right if all differences between
        spots were counting noise, 0 if none were.
    """

    def __init__(
        self,
        normalization: Normalization,
        widths: Sequence[int],
        *,
        conv: Literal["sage", "gcn"],
        dropout_rate: float,
        mask_fraction: float,
        neighbor_weight: float = 3.0,
        shrinkage: float = 0.13,
        depth_power: float = 0.5,
    ) -> None:
        super().__init__()
        self.normalization, self.mask_fraction = normalization, mask_fraction
        self.neighbor_weight, self.shrinkage, self.depth_power = neighbor_weight, shrinkage, depth_power
        self.section_fit = SectionFit()
        self.encoder = Encoder(widths, conv=conv, dropout_rate=dropout_rate)
        self.decoder = nn.Linear(widths[-1], widths[0])

    @property
    def scale_genes(self) -> bool:
        """Whether genes are standardised per section."""
        return self.normalization.scale_genes

    # Training. scvi-tools calls, in this order: `_get_inference_input`, `inference`, `_get_generative_input`,
    # `generative`, `loss`.

    def _get_inference_input(self, tensors: Tensors, **kwargs: Any) -> dict[str, Any]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        # These keys of a batch are also names of arguments of `inference`.
        arguments = {key: tensors[key] for key in (NEIGHBORS_KEY, N_NEIGHBORS_KEY)}
        absent, units = of_spots(tensors[ABSENT_KEY], tensors[SECTION_KEY]), _units(tensors)
        return {"counts": counts, "mask": self.draw_mask(counts), "absent": absent, "units": units, **arguments}

    def draw_mask(self, counts: Tensor) -> Tensor:
        """Draw which genes are masked: (1, genes) in training; (n, genes), always the same, in validation.

        One mask per training batch lets :meth:`generative` decode the masked genes only.
        """
        if self.training:
            return torch.rand(1, counts.shape[1], device=counts.device) < self.mask_fraction
        generator = torch.Generator(counts.device).manual_seed(0)
        return torch.rand(counts.shape, device=counts.device, generator=generator) < self.mask_fraction

    @auto_move_data
    def inference(
        self, counts: Tensor, mask: Tensor, absent: Tensor, neighbors: Tensor, n_neighbors: Tensor, units: Units
    ) -> Tensors:
        """Encode centres without their masked genes; `mask` and `absent` (not in the panel) are (1 or n, genes)."""
        center, _ = self.center_input(counts, mask | absent, units)
        latent = self.encoder(center, units.standardize(neighbors, absent), n_neighbors)
        return {"z": latent, "mask": mask, "absent": absent}

    def center_input(self, counts: Tensor, mask: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """Return the network's input for centres, (n, genes), and the factor their counts were scaled by, (n, 1)."""
        factor = self.normalization.factor(counts, mask)
        logged = (counts * factor).log1p_()
        return units.standardize(logged, mask, out=logged), factor

    def _get_generative_input(self, tensors: Tensors, inference_outputs: Tensors, **kwargs: Any) -> Tensors:
        return {"z": inference_outputs["z"], "genes": inference_outputs["mask"].any(0).nonzero().squeeze(1)}

    @auto_move_data
    def generative(self, z: Tensor, genes: Tensor) -> Tensors:
        """Decode `genes`, by position: standardised, or, without standardisation, rectified on the log scale."""
        weight, bias = (parameter.index_select(0, genes) for parameter in (self.decoder.weight, self.decoder.bias))
        predicted = nn.functional.linear(z, weight, bias)
        return {"predicted": predicted if self.scale_genes else predicted.relu(), "genes": genes}

    def loss(self, tensors: Tensors, inference_outputs: Tensors, generative_outputs: Tensors) -> LossOutput:
        """Return the mean squared error over masked entries of genes in the panel, standardised.

        Spots are weighted by library size to the power `depth_power`.
        """
        counts, absent, genes = tensors[REGISTRY_KEYS.X_KEY], inference_outputs["absent"], generative_outputs["genes"]
        factor = self.normalization.factor(counts, absent)
        logged = (counts.index_select(1, genes) * factor).log1p_()
        scored = (inference_outputs["mask"] & ~absent).index_select(1, genes)
        target = _units(tensors, genes).standardize(logged, ~scored, out=logged)
        # In the backward pass, multiplying by the mask and summing is many times faster than indexing by it.
        entries = scored.to(counts.dtype)
        squares = ((generative_outputs["predicted"] - target) * entries).square().sum(1, keepdim=True)
        weight = factor.pow(-self.depth_power)
        total = (weight * entries.sum(1, keepdim=True)).sum()
        return LossOutput(loss=(weight * squares).sum() / total.clamp_min(1e-12), n_obs_minibatch=len(counts))

    # Before training, after it, and prediction.

    @torch.no_grad()
    def init_from_pca(self, components: Tensor, deviation: Tensor) -> None:
        """Initialise from PCA: `components` (k, genes) with standard deviations `deviation` (k,)."""
        components, deviation = components.to(self.device), deviation.to(self.device)
        if self.encoder.init_from_pca(components, deviation, self.neighbor_weight):
            self.decoder.weight[:, : len(components)] = self.shrinkage * (deviation[:, None] * components).T
            self.decoder.bias.zero_()

    @torch.no_grad()
    def orthogonalize_decoder(self) -> None:
        """Orthogonalise the decoder (by SVD); no prediction changes.

        A linear decoder determines the latent space only up to a linear map. With orthogonal columns of equal length,
        latent distances are proportional to distances between the predicted standardised expression of all genes.
        """
        if not self.scale_genes or len(self.decoder.weight) < self.decoder.in_features:
            return
        columns, lengths, rotation = torch.linalg.svd(self.decoder.weight, full_matrices=False)
        length = lengths.square().mean().sqrt()
        change = lengths[:, None] * rotation / length
        self.decoder.weight.copy_(columns * length)
        for parameter in self.encoder.layer(self.encoder.n_layers).parameters():  # weight and bias of an affine map
            parameter.copy_(change @ parameter)

    def decode(self, latent: Tensor, units: Units, genes: Tensor | slice = slice(None)) -> Tensor:
        """Predict `genes`, by position, on the log scale from a latent representation and their units: (n, genes)."""
        return self.decode_unrectified(latent, units, genes).relu()

    def decode_unrectified(self, latent: Tensor, units: Units, genes: Tensor | slice = slice(None)) -> Tensor:
        """Predict `genes` as :meth:`decode` does, without setting negative values to zero."""
        return units.restore(nn.functional.linear(latent, self.decoder.weight[genes], self.decoder.bias[genes]).float())

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Load weights, also of versions that stored the moments of genes in the network itself."""
        return super().load_state_dict(with_current_names(state_dict, self.normalization), *args, **kwargs)


def _units(tensors: Tensors, genes: Tensor | slice = slice(None)) -> Units:
    """Return mean and scale of `genes` for the spots of a batch."""
    table = Units(tensors.get(UNIT_MEAN_KEY), tensors.get(UNIT_SCALE_KEY))
    return table.of_genes(genes).of_spots(tensors[SECTION_KEY])
