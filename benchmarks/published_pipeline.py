"""Compare sagefm with the published pipeline, written plainly with PyTorch Geometric: same weights, same section.

The published pipeline copies the neighbourhood of each spot (the spot and its 14 nearest) into a separate graph, writes
the graphs to disk, passes them through graph convolutions in batches of 64, decodes every node and keeps every 15th
row. Each side runs in its own process, one after the other, with the same number of threads.

    python benchmarks/published_pipeline.py [SECTION ...] [--gene-names FILE.npy] [--threads 2]
"""

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import scipy.sparse as sp
import torch
from _memory import PeakMemory
from _sections import FOLDER, section
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv

WIDTHS = (1024, 512, 512, 512, 1024)
K, BATCH, MASKED, TRAINING_STEPS = 15, 64, 0.3, 12
SECTIONS = ["dlpfc_maynard2021__151673", "crc_galeanonino2022__CRC_16"]
GENE_NAMES = FOLDER.parent / "reference" / "Matched_Gene_Names.npy"


class Published(nn.Module):
    """Five graph convolutions and a linear decoder, as described in the paper (arXiv:2601.15504)."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        for number, (n_in, n_out) in enumerate(zip((n_genes, *WIDTHS), WIDTHS, strict=False), start=1):
            self.add_module(f"conv{number}", GCNConv(n_in, n_out))
        self.fc_gene = nn.Linear(WIDTHS[-1], n_genes)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"conv{number}")(x, edge_index)
            x = nn.functional.leaky_relu(x) if number < len(WIDTHS) else x
        return x, self.fc_gene(x).relu()


# Shared inputs --------------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, n_genes: int) -> None:
    """Write random weights in the format of the published file."""
    torch.manual_seed(0)
    torch.save({"model_state_dict": Published(n_genes).state_dict(), "hidden_channels": list(WIDTHS)}, path)


def read_section(name: str, genes: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return log counts with genes in the order of `genes`, the neighbourhoods, (n, 15), and a mask, (n, genes)."""
    from sklearn.neighbors import NearestNeighbors

    adata = section(name)
    columns = adata.var_names.get_indexer(genes)
    present = np.flatnonzero(columns >= 0)
    place = sp.csr_matrix((np.ones(len(present)), (columns[present], present)), (adata.n_vars, len(genes)))
    nearest = NearestNeighbors(n_neighbors=K - 1).fit(adata.obsm["spatial"]).kneighbors(return_distance=False)
    nodes = np.concatenate([np.arange(adata.n_obs)[:, None], nearest], axis=1)
    mask = np.random.default_rng(0).random((adata.n_obs, len(genes)), dtype=np.float32) < MASKED
    return sp.csr_matrix(adata.X @ place, dtype=np.float32).log1p(), nodes, mask & (columns >= 0)


# Published pipeline ---------------------------------------------------------------------------------------------------


def published(checkpoint: Path, name: str, genes: np.ndarray, folder: Path) -> dict[str, float]:
    """Build and write the graphs, embed and predict with and without masking, and train for some steps."""
    logged, nodes, mask = read_section(name, genes)
    model = Published(len(genes))
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model_state_dict"])
    pairs = torch.tensor([(i, j) for i in range(K) for j in range(K) if i != j]).T
    numbers: dict[str, float] = {"n_spots": len(nodes)}

    def build() -> None:
        for start in range(0, len(nodes), BATCH):
            graphs = [Data(torch.from_numpy(logged[ego].toarray()), pairs) for ego in nodes[start : start + BATCH]]
            torch.save(graphs, folder / f"{start:06d}.pt")

    def batches() -> Iterator[tuple[int, list[Data]]]:
        for start in range(0, len(nodes), BATCH):
            yield start, torch.load(folder / f"{start:06d}.pt", weights_only=False)

    @torch.inference_mode()
    def embed(masked: bool = False) -> tuple[np.ndarray, np.ndarray]:
        latent, predicted = [], []
        for start, graphs in batches():
            batch = Batch.from_data_list(graphs)
            if masked:
                batch.x[::K][torch.from_numpy(mask[start : start + len(graphs)])] = 0
            z, y = model(batch.x, batch.edge_index)
            latent.append(z[::K].numpy().copy())
            predicted.append(y[::K].numpy().copy())
        return np.concatenate(latent), np.concatenate(predicted)

    with PeakMemory() as memory:
        numbers["build"], _ = timed(build)
        numbers["embed"], (latent, predicted) = timed(embed)
    numbers["memory"] = memory.extra
    numbers["written"] = sum(file.stat().st_size for file in folder.iterdir())
    save(folder.parent / "published.npz", latent, predicted, *embed(masked=True))

    def train() -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-4)
        for _, (start, graphs) in zip(range(TRAINING_STEPS), batches(), strict=False):
            batch = Batch.from_data_list(graphs)
            target = batch.x[::K].clone()
            masked = torch.from_numpy(mask[start : start + len(graphs)])
            batch.x[::K][masked] = 0
            predicted = model(batch.x, batch.edge_index)[1][::K]
            optimizer.zero_grad()
            nn.functional.mse_loss(predicted[masked], target[masked]).backward()
            optimizer.step()

    numbers["step"] = timed(train)[0] / TRAINING_STEPS
    return numbers


# sagefm ---------------------------------------------------------------------------------------------------------------


def ours(checkpoint: Path, name: str, genes: np.ndarray, folder: Path) -> dict[str, float]:
    """Do the same with sagefm."""
    import sagefm

    adata = section(name)
    _, nodes, mask = read_section(name, genes)
    ordered = np.zeros(adata.shape, dtype=bool)
    columns = adata.var_names.get_indexer(genes)
    ordered[:, columns[columns >= 0]] = mask[:, columns >= 0]
    graph = sp.csr_matrix(
        (np.ones(nodes[:, 1:].size, np.float32), nodes[:, 1:].ravel(), np.arange(len(nodes) + 1) * (K - 1))
    )
    adata.obsp["spatial_knn14_connectivities"] = graph  # so that ties in distance are broken in the same way
    model = sagefm.SAGEFM.from_reference_checkpoint(checkpoint, genes, adata)
    model.get_latent_representation(indices=[0])
    numbers: dict[str, float] = {}
    with PeakMemory() as memory:
        numbers["embed"], latent = timed(model.get_latent_representation)
    numbers["memory"] = memory.extra
    numbers["embed_16"] = timed(lambda: half_precision(model))[0]
    numbers["error_16"] = relative_difference(half_precision(model), latent)
    numbers["share_of_rate"] = matrix_work(len(nodes), len(genes)) / numbers["embed"] / matrix_rate(len(genes))
    save(folder.parent / "ours.npz", latent, *predictions(model, ordered))
    numbers["step"] = training_step(model)
    return numbers


def half_precision(model: Any) -> np.ndarray:
    """Embed in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model.get_latent_representation(key_added=None)


def predictions(model: Any, mask: np.ndarray) -> list[np.ndarray]:
    """Return predictions for unmasked spots, and latent representations and predictions for masked spots."""
    from sagefm.data import registered_spots
    from sagefm.model import ModelMask
    from sagefm.module import OnePass

    spots = registered_spots(model.adata_manager, model.module.normalization)
    rows, one_pass = np.arange(spots.n_obs), OnePass(model.module, spots)
    unmasked = np.concatenate([decoded(model, piece.latent) for piece in one_pass.unmasked(rows)])
    pieces = list(one_pass.masked(rows, ModelMask(mask, spots.columns)))
    latent = np.concatenate([piece.latent.numpy() for piece in pieces])
    return [unmasked, latent, np.concatenate([decoded(model, piece.latent) for piece in pieces])]


@torch.inference_mode()
def decoded(model: Any, latent: Tensor) -> np.ndarray:
    """Return predictions of all genes."""
    from sagefm.data import Units

    return model.module.decode(latent, Units()).numpy()


def training_step(model: Any) -> float:
    """Return the seconds per training step, including data loading."""
    from sagefm.data import SectionSplitter, registered_spots
    from sagefm.module import MaskedCenterPlan

    spots = registered_spots(model.adata_manager, model.module.normalization)
    splitter = SectionSplitter(spots, batch_size=BATCH)
    splitter.setup()
    plan = MaskedCenterPlan(model.module.train(), lr=5e-5, weight_decay=1e-4)
    optimizer = plan.configure_optimizers()["optimizer"]

    def train(n_steps: int) -> None:
        for _, tensors in zip(range(n_steps), splitter.train_dataloader(), strict=False):
            optimizer.zero_grad()
            plan.forward(tensors)[2].loss.backward()
            optimizer.step()

    train(1)
    return timed(lambda: train(TRAINING_STEPS))[0] / TRAINING_STEPS


def matrix_work(n_spots: int, n_genes: int) -> float:
    """Return the number of floating-point operations in the matrix products of an embedding."""
    widths = (n_genes, *WIDTHS)
    return 2.0 * n_spots * sum(a * b for a, b in zip(widths, widths[1:], strict=False))


def matrix_rate(n_genes: int) -> float:
    """Return the dense float32 rate of this machine, in operations per second, for the shapes of the first layer."""
    a, b = torch.rand(512, n_genes), torch.rand(n_genes, WIDTHS[0])
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[1] / min(timed(lambda: a @ b)[0] for _ in range(8))


# Measurement ----------------------------------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the duration of a call in seconds, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def save(path: Path, latent: np.ndarray, predicted: np.ndarray, latent_masked: np.ndarray, masked: np.ndarray) -> None:
    """Save the results for the comparison."""
    np.savez(path, latent=latent, predicted=predicted, latent_masked=latent_masked, predicted_masked=masked)


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest absolute difference, divided by the largest absolute value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def in_a_process(side: Callable[..., dict[str, float]], threads: int, *arguments: Any) -> dict[str, float]:
    """Run one side in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=_prepare, initargs=(threads,)) as pool:
        return pool.apply(side, arguments)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.getLogger("sagefm").setLevel(logging.WARNING)


def compare(name: str, genes: np.ndarray, threads: int) -> dict[str, float]:
    """Measure both sides on one section."""
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, folder = Path(temporary) / "checkpoint.pt", Path(temporary) / "graphs"
        folder.mkdir()
        write_checkpoint(checkpoint, len(genes))
        theirs = in_a_process(published, threads, checkpoint, name, genes, folder)
        mine = in_a_process(ours, threads, checkpoint, name, genes, folder)
        one, two = np.load(Path(temporary) / "published.npz"), np.load(Path(temporary) / "ours.npz")
        differences = {f"difference_{key}": relative_difference(two[key], one[key]) for key in one.files}
    return {
        "n_spots": theirs["n_spots"],
        **differences,
        "embed_published_ms_a_spot": 1e3 * theirs["embed"] / theirs["n_spots"],
        "embed_ours_ms_a_spot": 1e3 * mine["embed"] / theirs["n_spots"],
        "embed_ratio": theirs["embed"] / mine["embed"],
        "embed_ratio_with_building": (theirs["build"] + theirs["embed"]) / mine["embed"],
        "training_step_ratio": theirs["step"] / mine["step"],
        "training_step_ours_ms": 1e3 * mine["step"],
        "memory_ratio": theirs["memory"] / mine["memory"],
        "memory_ours_MiB": mine["memory"] / 2**20,
        "written_by_published_MiB": theirs["written"] / 2**20,
        "share_of_matrix_rate": mine["share_of_rate"],
        "bfloat16_speed_up": mine["embed"] / mine["embed_16"],
        "bfloat16_difference": mine["error_16"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=[])
    parser.add_argument("--gene-names", type=Path, default=GENE_NAMES)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or os.cpu_count())
    arguments = parser.parse_args()
    for each in arguments.sections or SECTIONS:
        print(each, json.dumps(compare(each, np.load(arguments.gene_names), arguments.threads), indent=1), flush=True)
