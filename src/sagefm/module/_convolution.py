"""Graph convolutions of PyTorch Geometric, with a closed form on ego graphs.

The ego graph of a spot is the complete graph on the spot, its centre, and its neighbours. The convolution of the centre
depends on two vectors only: the centre itself and the mean of its neighbours. So no graph is copied and no edge is
visited. The closed forms hold for the default options of PyTorch Geometric.
"""

from torch import Tensor
from torch.nn.functional import linear
from torch_geometric.nn import GCNConv, SAGEConv


class EgoGCNConv(GCNConv):
    r"""The convolution of Kipf and Welling (arXiv:1609.02907), as the SAGE-FM paper uses it.

    With self loops, every edge of a complete graph on :math:`k` nodes has weight :math:`1/k`:

    .. math:: h_i = W\,\frac{x_i + (k - 1)\,\bar x_i}{k} + b,

    where :math:`\bar x_i` is the mean of the neighbours. All nodes of the graph get the same output.
    """

    def closed_form(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Convolve centres (n, in) with the means of their neighbours (n, in), given their number (n, 1)."""
        return self.lin(self._mean(center, neighbors, n_neighbors)) + self.bias

    def project_center(self, center: Tensor) -> Tensor:
        """Return the linear contribution of spots, (n, in), to their own output, (n, out)."""
        return self.lin(center)

    project_neighbor = project_center  # centre and neighbours share their weights

    def combine(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Return the output, given projected centres (n, out) and the means of their projected neighbours (n, out)."""
        return self._mean(center, neighbors, n_neighbors) + self.bias

    @staticmethod
    def _mean(center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        return (center + n_neighbors * neighbors) / (n_neighbors + 1)


class EgoSAGEConv(SAGEConv):
    r"""The convolution of Hamilton and others (arXiv:1706.02216): separate weights for the centre and its neighbours.

    .. math:: h_i = W_\text{self}\,x_i + W_\text{nbr}\,\bar x_i + b
    """

    def closed_form(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Convolve centres (n, in) with the means of their neighbours (n, in)."""
        return self.lin_r(center) + self.lin_l(neighbors)

    def project_center(self, center: Tensor) -> Tensor:
        """Return the linear contribution of spots, (n, in), to their own output, (n, out)."""
        return self.lin_r(center)

    def project_neighbor(self, neighbor: Tensor) -> Tensor:
        """Return the linear contribution of spots, (n, in), to their neighbours' output, before averaging: (n, out)."""
        return linear(neighbor, self.lin_l.weight)

    def combine(self, center: Tensor, neighbors: Tensor, n_neighbors: Tensor) -> Tensor:
        """Return the output, given projected centres (n, out) and the means of their projected neighbours (n, out)."""
        return center + neighbors + self.lin_l.bias
