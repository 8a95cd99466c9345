"""Time per source, level and spot at the published sizes: full pass of the ego graph, as published, or fast path.

python benchmarks/perturbation/speed.py

Weights are random: time does not depend on them. In the full pass, as in the paper, every spot has a complete graph of
15 spots, all of which pass through all layers of PyTorch Geometric, and all 14,558 genes are predicted.
"""

import time
import warnings

import numpy as np
import torch
from torch_geometric.data import Batch

import sagefm
from sagefm.data import Units, registered_spots
from sagefm.model.perturbation import Counterfactual, Levels, Readout

warnings.simplefilter("ignore")
N_PASSED = 32


def full_pass(model: sagefm.SAGEFM) -> float:
    """Return seconds per spot, for one source and level."""
    batch = Batch.from_data_list(model.to_pyg(np.arange(N_PASSED)))
    times = []
    with torch.inference_mode():
        for _ in range(3):
            start = time.process_time()
            model.module.decode(model.module.encoder.on_graph(batch.x, batch.edge_index), Units())
            times.append(time.process_time() - start)
    return min(times) / N_PASSED


def fast_path(model: sagefm.SAGEFM, n_targets: int) -> float:
    """Return seconds per spot, for one source and level, with `n_targets` targets, each masked separately."""
    spots = registered_spots(model.adata_manager, model.module.normalization)
    genes = np.arange(100, 101 + n_targets)
    rows = np.arange(spots.n_obs)
    one = Counterfactual(model.module, spots, rows, genes, where="neighbors", mask_targets=True)
    levels, readout, times = Levels.parse(5), Readout.of_targets([*genes[1:, None]]), []
    for _ in range(3):
        start = time.process_time()
        for _ in one.responses(genes[:1], levels, readout):
            pass
        times.append(time.process_time() - start)
    return min(times) / (5 * len(rows))


if __name__ == "__main__":
    adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=14_558)
    settings = sagefm.SAGEFM.published_architecture()
    sagefm.SAGEFM.setup_anndata(adata, graph="knn")
    model = sagefm.SAGEFM(adata, **settings)
    model.module.eval()
    slow = full_pass(model)
    print(f"{model}\nfull pass {1e3 * slow:.2f} ms a spot, source and level (processor time)")
    for n_targets in (1, 4):
        fast = fast_path(model, n_targets)
        print(f"fast path, {n_targets} target(s): {1e3 * fast:.4f} ms, {slow / fast:.0f} times less")
