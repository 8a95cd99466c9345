"""Explicit ego graphs for PyTorch Geometric."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from sagefm.data import Spots
from sagefm.module._module import MaskedCenterModule


def ego_graphs(module: MaskedCenterModule, spots: Spots, rows: np.ndarray) -> list[Data]:
    """Return one complete graph for each of `rows`: the centre, then its neighbours."""
    return [_ego_graph(module, spots, row) for row in rows]


@torch.no_grad()
def _ego_graph(module: MaskedCenterModule, spots: Spots, row: int) -> Data:
    nodes = np.concatenate([[row], spots.graph[[row]].indices])
    x = spots.inputs(nodes, spots.units.of(nodes)).to(module.device)
    pairs = [(i, j) for i in range(len(nodes)) for j in range(len(nodes)) if i != j]
    edges = pairs or ([(0, 0)] if module.encoder.conv == "sage" else [])  # a GCN adds self loops itself
    edge_index = torch.tensor(edges, dtype=torch.long, device=x.device).reshape(-1, 2).T
    return Data(x=x, edge_index=edge_index, center=int(row))
