"""The network: an encoder of a spot and its neighbourhood, a linear decoder, and the masked-centre objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from sagefm._convolution import EgoGCNConv, EgoSAGEConv
from sagefm._data import KNOWN_KEY, MEAN_KEY, N_NEIGHBORS_KEY, NEIGHBORS_KEY, SCALE_KEY
from sagefm._normalization import Normalization
from sagefm._units import Units

# At the start a spot counts once and the mean of its neighbours, which is much less noisy, this many times; what their
# principal components tell together is shrunk by this. Training finds the rest.
_NEIGHBOR_WEIGHT, _SHRINKAGE = 3.0, 0.13
# To this power of its library size a spot weighs in the loss. Counting noise alone would ask for 1, differences between
# spots that are not noise for 0.
_DEPTH_POWER = 0.5


class Encoder(nn.Module):
    """Convolutions on ego graphs; the last one gives the latent representation.

    `conv="gcn"` convolves in every layer. `conv="sage"` convolves once and goes on with dense layers: its closed form
    is exact in the first layer only, since there alone the neighbours' own neighbourhoods do not matter.
    """

    conv1: EgoGCNConv | EgoSAGEConv

    def __init__(self, widths: Sequence[int], *, conv: Literal["sage", "gcn"], dropout_rate: float):
        super().__init__()
        self.conv = conv
        self.n_layers = len(widths) - 1
        for number, (n_in, n_out) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{number}", self._layer(n_in, n_out, first=number == 1))
        self.activation = nn.LeakyReLU()
        self.dropout = nn.Dropout(dropout_rate)

    def _layer(self, n_in: int, n_out: int, *, first: bool) -> nn.Module:
        if self.conv == "gcn":
            return EgoGCNConv(n_in, n_out)
        return EgoSAGEConv(n_in, n_out) if first else nn.Linear(n_in, n_out)

    def layer(self, number: int) -> nn.Module:
        """Return layer `number`, counted from one."""
        return self.get_submodule(f"conv{number}")

    def forward(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Encode centres (n, genes) with the means of their neighbours (n, genes); returns (n, latent)."""
        if (n_neighbors == 0).any():  # an isolated spot sees itself
            neighbors = torch.where(n_neighbors > 0, neighbors, center)
        return self.after_first(self.conv1.closed_form(center, neighbors, n_neighbors))

    def after_first(self, hidden: Tensor) -> Tensor:
        """Go on from the first convolution's output, (n, hidden), to the latent representation, (n, latent)."""
        for number in range(2, self.n_layers + 1):
            hidden = self.dropout(self.activation(hidden))
            layer = self.layer(number)
            # All nodes of an ego graph agree by now, so the mean over them changes nothing.
            hidden = layer.lin(hidden) + layer.bias if isinstance(layer, EgoGCNConv) else layer(hidden)
        return hidden

    def on_graph(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Encode the nodes of explicit graphs, as `SAGEFM.to_pyg` gives them; returns (nodes, latent)."""
        hidden = self.conv1(x, edge_index)
        for number in range(2, self.n_layers + 1):
            hidden = self.dropout(self.activation(hidden))
            layer = self.layer(number)
            hidden = layer(hidden, edge_index) if isinstance(layer, EgoGCNConv) else layer(hidden)
        return hidden

    @torch.no_grad()
    def start_from(self, components: Tensor, deviation: Tensor) -> bool:
        """Begin as a linear projection on principal components, where the architecture allows it.

        `components` (k, genes) are orthonormal, with standard deviations `deviation` (k,). A unit and its negative
        twin pass both halves of a projection through the activation, so their difference is linear. The mean of the
        neighbours counts more than the spot. Returns whether it could be done: it takes own weights for the
        spot, one hidden layer, and two hidden units a component.
        """
        first, second, k = self.conv1, self.layer(self.n_layers), len(components)
        half = first.out_channels // 2
        if not (isinstance(first, EgoSAGEConv) and isinstance(second, nn.Linear) and self.n_layers == 2 and half >= k):
            return False
        mixing = torch.linalg.qr(torch.randn(half, k))[0].to(components)
        pairs = torch.cat([mixing, -mixing])
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.zero_()
        first.lin_r.weight[: 2 * half] = pairs @ (components / deviation[:, None])
        first.lin_l.weight[: 2 * half] = _NEIGHBOR_WEIGHT * first.lin_r.weight[: 2 * half]
        second.weight[:k, : 2 * half] = pairs.T / (1 + self.activation.negative_slope)
        return True


class MaskedCenterModule(BaseModuleClass):
    """Predict the masked genes of a spot from its other genes and from its neighbours.

    Parameters
    ----------
    normalization
        How counts become what the network reads and predicts.
    widths
        Number of genes, width of each hidden layer, size of the latent representation.
    conv, dropout_rate
        See :class:`Encoder`.
    mask_fraction
        Probability with which each gene of a centre is masked, drawn afresh at every step.
    scale_genes
        Whether genes are read and predicted by their mean and standard deviation within the section.
    """

    def __init__(
        self,
        normalization: Normalization,
        widths: Sequence[int],
        *,
        conv: Literal["sage", "gcn"],
        dropout_rate: float,
        mask_fraction: float,
        scale_genes: bool,
    ) -> None:
        super().__init__()
        n_genes, n_latent = widths[0], widths[-1]
        self._constants, self.scale_genes = normalization, scale_genes
        self.mask_fraction = mask_fraction
        self.encoder = Encoder(widths, conv=conv, dropout_rate=dropout_rate)
        self.decoder = nn.Linear(n_latent, n_genes)
        self.register_buffer("gene_mean", torch.zeros(n_genes))
        self.register_buffer("gene_scale", torch.ones(n_genes))

    @property
    def normalization(self) -> Normalization:
        """How counts become what the network reads, with the genes' moments that training began with."""
        if not self.scale_genes:
            return self._constants
        moments = {"gene_mean": self.gene_mean.cpu().numpy(), "gene_scale": self.gene_scale.cpu().numpy()}
        return replace(self._constants, **moments)

    @torch.no_grad()
    def fix_units(self, mean: Tensor, scale: Tensor) -> None:
        """Note the mean and standard deviation of genes, each (genes,), that stand for those of a section."""
        self.gene_mean.copy_(mean)
        self.gene_scale.copy_(scale)

    @torch.no_grad()
    def start_from(self, components: Tensor, deviation: Tensor) -> None:
        """Begin as a principal component analysis: `components` (k, genes), with standard deviations (k,)."""
        components, deviation = components.to(self.device), deviation.to(self.device)
        if self.encoder.start_from(components, deviation):
            self.decoder.weight[:, : len(components)] = _SHRINKAGE * (deviation[:, None] * components).T
            self.decoder.bias.zero_()

    @torch.no_grad()
    def settle(self) -> None:
        """Turn the latent space so that its distances are those of predicted profiles; no prediction changes.

        A linear decoder leaves the latent space free up to any linear map. Here its columns become orthogonal and of
        one length, so that latent distances are proportional to distances between the predicted standardised
        expression of all genes.
        """
        if not self.scale_genes or len(self.decoder.weight) < self.decoder.in_features:
            return
        columns, lengths, rotation = torch.linalg.svd(self.decoder.weight, full_matrices=False)
        length = lengths.square().mean().sqrt()
        turn = lengths[:, None] * rotation / length
        self.decoder.weight.copy_(columns * length)
        for parameter in self.encoder.layer(self.encoder.n_layers).parameters():  # weight and bias of an affine map
            parameter.copy_(turn @ parameter)

    def center_input(self, counts: Tensor, visible: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """Return what the network reads of centres, (n, genes), and the factor their counts were scaled by, (n, 1)."""
        shown = visible.to(counts.dtype)  # once: a product with a boolean converts it every time
        factor = self._constants.factor(counts, shown)
        logged = (counts * factor).log1p_()
        return units.standardize(logged, shown, out=logged), factor

    def decode(self, latent: Tensor, units: Units, genes: Tensor | slice = slice(None)) -> Tensor:
        """Predict `genes`, by position, on the log scale from a latent representation and their units: (n, genes)."""
        return self.decode_unrectified(latent, units, genes).relu()

    def decode_unrectified(self, latent: Tensor, units: Units, genes: Tensor | slice = slice(None)) -> Tensor:
        """Predict `genes` as :meth:`decode` does, also below zero."""
        return units.restore(nn.functional.linear(latent, self.decoder.weight[genes], self.decoder.bias[genes]).float())

    def draw_mask(self, counts: Tensor) -> Tensor:
        """Draw which genes are masked, boolean: (1, genes) in training; (n, genes), always the same, in validation.

        The spots of a training batch share their mask. So the loss decodes masked genes alone, and models come out no
        worse than with a mask for every spot.
        """
        if self.training:
            return torch.rand(1, counts.shape[1], device=counts.device) < self.mask_fraction
        generator = torch.Generator(counts.device).manual_seed(0)
        return torch.rand(counts.shape, device=counts.device, generator=generator) < self.mask_fraction

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        # As numbers from here on: each product with a boolean would convert it anew.
        return {
            "counts": counts,
            "mask": self.draw_mask(counts).to(counts.dtype),
            "known": tensors[KNOWN_KEY].to(counts.dtype),
            "neighbors": tensors[NEIGHBORS_KEY],
            "n_neighbors": tensors[N_NEIGHBORS_KEY],
            "units": _units(tensors),
        }

    @auto_move_data
    def inference(
        self, counts: Tensor, mask: Tensor, known: Tensor, neighbors: Tensor, n_neighbors: Tensor, units: Units
    ) -> dict[str, Tensor]:
        """Encode centres whose masked genes are hidden; `mask` and `known`, (1 or n, genes), are 0 or 1."""
        center, _ = self.center_input(counts, known * (1 - mask), units)
        latent = self.encoder(center, units.standardize(neighbors, known), n_neighbors)
        return {"z": latent, "mask": mask, "known": known}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        return {"z": inference_outputs["z"], "genes": inference_outputs["mask"].any(0).nonzero().squeeze(1)}

    @auto_move_data
    def generative(self, z: Tensor, genes: Tensor) -> dict[str, Tensor]:
        """Decode `genes`, by position, to their units; rectified where these are the log scale itself."""
        weight, bias = (parameter.index_select(0, genes) for parameter in (self.decoder.weight, self.decoder.bias))
        predicted = nn.functional.linear(z, weight, bias)
        return {"predicted": predicted if self.scale_genes else predicted.relu(), "genes": genes}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
    ) -> LossOutput:
        """Mean squared error over the masked entries of known genes, in the units of the genes.

        Where library sizes are normalised, spots weigh by their square roots.
        """
        counts, known, genes = tensors[REGISTRY_KEYS.X_KEY], inference_outputs["known"], generative_outputs["genes"]
        factor = self._constants.factor(counts, known)
        logged = (counts.index_select(1, genes) * factor).log1p_()
        asked = (known * inference_outputs["mask"]).index_select(1, genes)
        target = _units(tensors).of_genes(genes).standardize(logged, asked, out=logged)
        # Weighting by the mask and summing is many times faster backwards than indexing by it.
        squares = ((generative_outputs["predicted"] - target) * asked).square().sum(1, keepdim=True)
        weight = factor.pow(-_DEPTH_POWER)
        entries = (weight * asked.sum(1, keepdim=True)).sum()
        return LossOutput(loss=(weight * squares).sum() / entries.clamp_min(1e-12), n_obs_minibatch=len(counts))


def _units(tensors: dict[str, Tensor]) -> Units:
    return Units(tensors.get(MEAN_KEY), tensors.get(SCALE_KEY))
