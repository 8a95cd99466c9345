"""The encoder of a spot and its neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sagefm.module._convolution import EgoGCNConv, EgoSAGEConv


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
        return self.after_first_layer(self.conv1.closed_form(center, neighbors, n_neighbors))

    def after_first_layer(self, hidden: Tensor) -> Tensor:
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
    def init_from_pca(self, components: Tensor, deviation: Tensor, neighbor_weight: float) -> bool:
        """Initialise as a linear projection on principal components, where the architecture allows it.

        `components` (k, genes) are orthonormal, with standard deviations `deviation` (k,). A unit and its negative
        twin pass both halves of a projection through the activation, so their difference is linear. The mean of the
        neighbours is weighted by `neighbor_weight`, the spot by 1. Returns whether it was possible: it takes separate
        weights for the spot, one hidden layer, and two hidden units per component.
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
        first.lin_l.weight[: 2 * half] = neighbor_weight * first.lin_r.weight[: 2 * half]
        second.weight[:k, : 2 * half] = pairs.T / (1 + self.activation.negative_slope)
        return True
