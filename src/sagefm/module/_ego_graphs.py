"""Explicit ego graphs for PyTorch Geometric."""

import numpy as np
import torch
from torch_geometric.data import Data

from sagefm.data import Spots
from sagefm.module._module import MaskedCenterModule


@torch.no_grad()
def ego_graphs(module: MaskedCenterModule, spots: Spots, rows: np.ndarray) -> list[Data]:
    """Return one complete graph for each of `rows`: the centre, then its neighbours."""
    graphs = []
    for row in rows:
        nodes = np.concatenate([[row], spots.graph[[row]].indices])
        x = spots.inputs(nodes, spots.units.of(nodes)).to(module.device)
        self_loop = len(nodes) == 1 and module.encoder.conv == "sage"  # an isolated spot; a GCN adds self loops itself
        edges = np.stack(np.nonzero(~np.eye(len(nodes), dtype=bool) | self_loop))
        graphs.append(Data(x=x, edge_index=torch.from_numpy(edges).to(x.device), center=int(row)))
    return graphs
