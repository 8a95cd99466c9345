"""The encoder of a spot and its neighbourhood."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sagefm.module._convolution import EgoGCNConv, EgoSAGEConv


class Encoder(nn.Module):
    """Convolutions on ego graphs; the last layer gives the latent representation.

    `conv="gcn"` convolves in every layer. `conv="sage"` convolves in the first layer only, and the others are dense:
    its closed form is exact there alone, where the neighbours' own neighbourhoods do not matter.

    Parameters
    ----------
    widths
        Number of genes, width of each hidden layer, size of the latent representation.
    conv
        Kind of convolution.
    dropout_rate
        Dropout of every hidden layer.
    """

    conv1: EgoGCNConv | EgoSAGEConv

    def __init__(self, widths: Sequence[int], *, conv: Literal["sage", "gcn"], dropout_rate: float) -> None:
        super().__init__()
        self.conv, self.n_layers = conv, len(widths) - 1
        for number, (n_in, n_out) in enumerate(pairwise(widths), start=1):
            kind = EgoGCNConv if conv == "gcn" else EgoSAGEConv if number == 1 else nn.Linear
            self.add_module(f"conv{number}", kind(n_in, n_out))
        self.activation = nn.LeakyReLU()
        self.dropout = nn.Dropout(dropout_rate)

    def layer(self, number: int) -> nn.Module:
        """Return layer `number`, counted from one."""
        return self.get_submodule(f"conv{number}")

    def forward(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Encode centres (n, genes) with the means of their neighbours (n, genes): (n, latent)."""
        if (n_neighbors == 0).any():  # an isolated spot is its own neighbourhood
            neighbors = torch.where(n_neighbors > 0, neighbors, center)
        return self.after_first_layer(self.conv1.closed_form(center, neighbors, n_neighbors))

    def on_graph(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Encode the nodes of explicit graphs, as returned by `SAGEFM.to_pyg`: (nodes, latent)."""
        return self.after_first_layer(self.conv1(x, edge_index), edge_index)

    def after_first_layer(self, hidden: Tensor, edge_index: Tensor | None = None) -> Tensor:
        """Apply the remaining layers to the output of the first one, (n, hidden): (n, latent).

        Without the edges of explicit graphs, `hidden` is that of centres. After one GCN convolution all nodes of an ego
        graph agree, so averaging over them changes nothing.
        """
        hidden = self.before_last_layer(hidden, edge_index)
        return hidden if self.n_layers == 1 else self._apply_layer(self.n_layers, hidden, edge_index)

    def before_last_layer(self, hidden: Tensor, edge_index: Tensor | None = None) -> Tensor:
        """Return the input of the last layer, from the output of the first one.

        The last layer has no activation. If it is the first layer, `hidden` is returned.
        """
        for number in range(2, self.n_layers):
            hidden = self._apply_layer(number, self.dropout(self.activation(hidden)), edge_index)
        return hidden if self.n_layers == 1 else self.dropout(self.activation(hidden))

    def _apply_layer(self, number: int, hidden: Tensor, edge_index: Tensor | None) -> Tensor:
        layer = self.layer(number)
        if isinstance(layer, EgoGCNConv) and edge_index is not None:
            return layer(hidden, edge_index)
        return linear(hidden, *self.affine(number))

    def affine(self, number: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer after the first, as it acts on centres."""
        layer = self.layer(number)
        weight = layer.lin.weight if isinstance(layer, EgoGCNConv) else layer.weight
        return cast(Tensor, weight), cast(Tensor, layer.bias)

    @torch.no_grad()
    def init_from_pca(self, components: Tensor, deviation: Tensor, neighbor_weight: float) -> bool:
        """Initialise as a linear projection on principal components; return whether the architecture allows it.

        `components` (k, genes) are orthonormal, with standard deviations `deviation` (k,). The spot has weight 1 and
        the mean of its neighbours `neighbor_weight`. Hidden units come in pairs of opposite sign, so that the
        difference of a pair is linear in spite of the activation. This needs separate weights for the spot, one hidden
        layer, and two hidden units per component; otherwise nothing changes.
        """
        first, last, k = self.conv1, self.layer(self.n_layers), len(components)
        half = first.out_channels // 2
        if not (isinstance(first, EgoSAGEConv) and isinstance(last, nn.Linear) and self.n_layers == 2 and half >= k):
            return False
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.zero_()
        mixing = torch.linalg.qr(torch.randn(half, k))[0].to(components)
        pairs = torch.cat([mixing, -mixing])
        first.lin_r.weight[: 2 * half] = pairs @ (components / deviation[:, None])
        first.lin_l.weight[: 2 * half] = neighbor_weight * first.lin_r.weight[: 2 * half]
        last.weight[:k, : 2 * half] = pairs.T / (1 + self.activation.negative_slope)
        return True
