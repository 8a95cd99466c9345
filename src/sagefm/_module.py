"""The network: an encoder of a spot and its neighbourhood, a linear decoder, and the masked-centre objective."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from sagefm._convolution import EgoGCNConv, EgoSAGEConv
from sagefm._data import KNOWN_KEY, N_NEIGHBORS_KEY, NEIGHBORS_KEY
from sagefm._normalization import Normalization


class Encoder(nn.Module):
    """Convolutions on ego graphs; the last one gives the latent representation.

    `conv="gcn"` convolves in every layer. `conv="sage"` convolves once and goes on with dense layers: its closed form
    is exact in the first layer only, since there alone the neighbours' own neighbourhoods do not matter.
    """

    conv1: EgoGCNConv | EgoSAGEConv

    def __init__(self, widths: Sequence[int], *, conv: Literal["sage", "gcn"], dropout_rate: float, layer_norm: bool):
        super().__init__()
        self.conv = conv
        self.n_layers = len(widths) - 1
        for number, (n_in, n_out) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{number}", self._layer(n_in, n_out, first=number == 1))
        self.norm = nn.LayerNorm(widths[1]) if layer_norm else nn.Identity()
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
        neighbors = torch.where(n_neighbors > 0, neighbors, center)  # an isolated spot sees itself
        return self.after_first(self.conv1.closed_form(center, neighbors, n_neighbors))

    def after_first(self, hidden: Tensor) -> Tensor:
        """Go on from the first convolution's output, (n, hidden), to the latent representation, (n, latent)."""
        for number in range(2, self.n_layers + 1):
            hidden = self._between(hidden, number)
            layer = self.layer(number)
            # All nodes of an ego graph agree by now, so the mean over them changes nothing.
            hidden = layer.lin(hidden) + layer.bias if isinstance(layer, EgoGCNConv) else layer(hidden)
        return hidden

    def on_graph(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Encode the nodes of explicit graphs, as `SAGEFM.to_pyg` gives them; returns (nodes, latent)."""
        hidden = self.conv1(x, edge_index)
        for number in range(2, self.n_layers + 1):
            hidden = self._between(hidden, number)
            layer = self.layer(number)
            hidden = layer(hidden, edge_index) if isinstance(layer, EgoGCNConv) else layer(hidden)
        return hidden

    def _between(self, hidden: Tensor, number: int) -> Tensor:
        if number == 2:
            hidden = self.norm(hidden)
        return self.dropout(self.activation(hidden))


class MaskedCenterModule(BaseModuleClass):
    """Predict the masked genes of a spot from its other genes and from its neighbours.

    Parameters
    ----------
    normalization
        How counts become what the network reads and predicts.
    widths
        Number of genes, width of each hidden layer, size of the latent representation.
    conv, dropout_rate, layer_norm
        See :class:`Encoder`.
    mask_fraction
        Probability with which each gene of a centre is masked, drawn afresh at every step.
    """

    def __init__(
        self,
        normalization: Normalization,
        widths: Sequence[int],
        *,
        conv: Literal["sage", "gcn"],
        dropout_rate: float,
        layer_norm: bool,
        mask_fraction: float,
    ) -> None:
        super().__init__()
        n_genes, n_latent = widths[0], widths[-1]
        self.normalization = normalization
        self.mask_fraction = mask_fraction
        self.encoder = Encoder(widths, conv=conv, dropout_rate=dropout_rate, layer_norm=layer_norm)
        self.decoder = nn.Linear(n_latent, n_genes)
        self.register_buffer("gene_scale", torch.ones(n_genes))

    @torch.no_grad()
    def start_from(self, mean: Tensor, scale: Tensor) -> None:
        """Read and predict genes in units of `scale` (genes,), and predict the `mean` (genes,) before any training."""
        self.gene_scale.copy_(scale)
        self.decoder.bias.copy_(mean / scale)

    def center_input(self, counts: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network reads of centres, (n, genes), and the factor their counts were scaled by, (n, 1)."""
        logged, factor = self.normalization.log_dense(counts, visible)
        return logged / self.gene_scale, factor

    def neighbor_input(self, logged: Tensor) -> Tensor:
        """Return what the network reads of neighbours, given their log scale (n, genes)."""
        return logged / self.gene_scale

    def decode(self, latent: Tensor, genes: Tensor | None = None) -> Tensor:
        """Predict every gene, or `genes` by position, on the log scale: (n, genes)."""
        if genes is None:
            return self.decoder(latent).relu() * self.gene_scale
        predicted = nn.functional.linear(latent, self.decoder.weight[genes], self.decoder.bias[genes])
        return predicted.relu() * self.gene_scale[genes]

    def draw_mask(self, counts: Tensor) -> Tensor:
        """Draw which entries are masked, boolean (n, genes); always the same ones in validation."""
        generator = None if self.training else torch.Generator(counts.device).manual_seed(0)
        return torch.rand(counts.shape, device=counts.device, generator=generator) < self.mask_fraction

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        return {
            "counts": counts,
            "mask": self.draw_mask(counts) & tensors[KNOWN_KEY],
            "known": tensors[KNOWN_KEY],
            "neighbors": tensors[NEIGHBORS_KEY],
            "n_neighbors": tensors[N_NEIGHBORS_KEY],
        }

    @auto_move_data
    def inference(
        self, counts: Tensor, mask: Tensor, known: Tensor, neighbors: Tensor, n_neighbors: Tensor
    ) -> dict[str, Tensor]:
        """Encode centres whose masked genes are hidden."""
        center, _ = self.center_input(counts, ~mask & known)
        return {"z": self.encoder(center, self.neighbor_input(neighbors), n_neighbors), "mask": mask}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        return {"z": inference_outputs["z"]}

    @auto_move_data
    def generative(self, z: Tensor) -> dict[str, Tensor]:
        """Decode to the scaled log scale."""
        return {"predicted": self.decoder(z).relu()}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
    ) -> LossOutput:
        """Mean squared error over the masked entries, genes in units of their scale."""
        counts, mask = tensors[REGISTRY_KEYS.X_KEY], inference_outputs["mask"]
        target, _ = self.center_input(counts, tensors[KNOWN_KEY])
        # Weighting by the mask and summing is many times faster backwards than indexing by it.
        errors = (generative_outputs["predicted"] - target).square() * mask
        return LossOutput(loss=errors.sum() / mask.sum().clamp_min(1), n_obs_minibatch=len(counts))
