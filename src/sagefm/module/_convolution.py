"""Graph convolutions of PyTorch Geometric, with their closed form on ego graphs.

In a complete graph on a spot and its neighbours every node sees the same mean, so a convolution of the centre needs
two vectors only: the centre itself and the mean of its neighbours. Nothing is copied and no edge is walked. The closed
forms hold for the default options of PyTorch Geometric.
"""

from __future__ import annotations

from torch import Tensor
from torch_geometric.nn import GCNConv, SAGEConv


class EgoGCNConv(GCNConv):
    r"""The convolution of Kipf and Welling (arXiv:1609.02907), as the SAGE-FM paper uses it.

    With self loops, every edge of a complete graph on :math:`k` nodes has weight :math:`1/k`:

    .. math:: h_i = W\,\frac{x_i + (k - 1)\,\bar x_i}{k} + b,

    where :math:`\bar x_i` is the mean of the neighbours. All nodes of the graph come out the same.
    """

    def closed_form(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Convolve centres (n, in) with the means of their neighbours (n, in), `n_neighbors` (n, 1) in number."""
        return self.lin(self._mean(center, neighbors, n_neighbors)) + self.bias

    def project_center(self, center: Tensor) -> Tensor:
        """Return what a spot adds to its own convolution, (n, out)."""
        return self.lin(center)

    def project_neighbor(self, neighbor: Tensor) -> Tensor:
        """Return what a spot adds to its neighbours' convolutions, (n, out), before the mean is taken."""
        return self.lin(neighbor)

    def combine(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Join projected centres (n, out) with the mean of their projected neighbours (n, out)."""
        return self._mean(center, neighbors, n_neighbors) + self.bias

    @staticmethod
    def _mean(center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        return (center + n_neighbors * neighbors) / (n_neighbors + 1)


class EgoSAGEConv(SAGEConv):
    r"""The convolution of Hamilton and others (arXiv:1706.02216): own weights for the centre and its neighbours.

    .. math:: h_i = W_\text{self}\,x_i + W_\text{nbr}\,\bar x_i + b
    """

    def closed_form(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Convolve centres (n, in) with the means of their neighbours (n, in)."""
        return self.combine(self.project_center(center), self.project_neighbor(neighbors), n_neighbors)

    def project_center(self, center: Tensor) -> Tensor:
        """Return what a spot adds to its own convolution, (n, out)."""
        return self.lin_r(center)

    def project_neighbor(self, neighbor: Tensor) -> Tensor:
        """Return what a spot adds to its neighbours' convolutions, (n, out), before the mean is taken."""
        return self.lin_l(neighbor)

    def combine(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Join projected centres (n, out) with the mean of their projected neighbours (n, out)."""
        return center + neighbors
