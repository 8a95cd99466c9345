"""Speed on an accelerator: embedding, single training steps and training on a section, and bare matrix products.

    python benchmarks/speed/accelerator.py SECTION.h5ad [--accelerator cuda] [--genes 14558]

Rates of matrix products, a large one and those of one step, are measured first, on random numbers. A step has its batch
on the device already; embedding and training start from the section in memory. Each time is the median of repeated
calls, after two that are not counted. `benchmarks/pretraining/stream.py` measures training on a corpus.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scvi
import torch
from _simulated import section
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.flop_counter import FlopCounterMode

import sagefm
from sagefm.data import NeighborhoodDataset, registered_spots
from sagefm.module import MaskedCenterPlan, OnePass

warnings.simplefilter("ignore")
Call = Callable[[], Any]
SIZE, PRECISIONS = 8192, {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def seconds(call: Call, n: int = 20) -> float:
    """Return the median time of a call, the device's work included."""
    times = []
    for _ in range(n + 2):
        _finish()
        start = time.perf_counter()
        call()
        _finish()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceilings(device: str, size: int) -> dict[str, float]:
    """Return the rates of a large matrix product, in TFLOP/s, and of a copy to the device, in GB/s."""
    numbers = {}
    for name, dtype in PRECISIONS.items():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        numbers[f"product {name}, TFLOP/s"] = 2e-12 * size**3 / seconds(lambda a=a, b=b: a @ b, 5)
    host = torch.empty(2**28, dtype=torch.uint8, pin_memory=device == "cuda")
    numbers["copy to the device, GB/s"] = host.numel() / 1e9 / seconds(lambda: host.to(device, copy=True), 5)
    return numbers


def step(model: sagefm.SAGEFM, batch: dict[str, torch.Tensor], precision: str) -> tuple[Call, float]:
    """Return a training step on one batch, and its floating-point operations in matrix products."""
    plan = MaskedCenterPlan(model.module.train())
    optimizer, device = plan.configure_optimizers()["optimizer"], model.device.type

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = plan.forward(batch)[2].loss
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        call()
    return call, counter.get_total_flops()


def steps(adata: ad.AnnData, device: str, networks: dict[str, dict[str, Any]], sizes: list[int]) -> dict[str, Any]:
    """Return, by network, size of the batch and precision, the spots per second and TFLOP/s of a step."""
    numbers = {}
    for network, options in networks.items():
        model = sagefm.SAGEFM(adata, **options)
        model.to_device(device)
        dataset = NeighborhoodDataset(registered_spots(model.adata_manager, model.module.normalization))
        for size in sizes:
            batch = {name: torch.as_tensor(value).to(device) for name, value in dataset[[*range(size)]].items()}
            for precision in PRECISIONS:
                call, operations = step(model, batch, precision)
                time_of_step = seconds(call)
                numbers[f"{network}, {size} spots, {precision}"] = {
                    "spots/s": size / time_of_step,
                    "TFLOP/s": 1e-12 * operations / time_of_step,
                }
    return numbers


def embedding(adata: ad.AnnData, device: str) -> dict[str, float]:
    """Return the spots per second of an embedding, of its part on the device, and of the bare products."""
    model = sagefm.SAGEFM(adata)
    model.is_trained_ = True  # with random weights: time does not depend on them
    model.to_device(device)
    spots = registered_spots(model.adata_manager, model.module.normalization)
    rows, one_pass = np.arange(spots.n_obs), OnePass(model.module, spots)
    conv = model.module.encoder.conv1
    x = torch.rand(512, spots.counts(rows[:1]).shape[1], device=device)

    @torch.inference_mode()
    def products() -> None:
        for _ in range(spots.n_obs // len(x) + 1):
            for layer in (conv.lin_l, conv.lin_r):
                x @ layer.weight.T

    calls = {
        "whole": lambda: model.get_latent_representation(key_added=None),
        "without the log scale and the moments": lambda: one_pass.latent(rows).cpu(),
        "bare products": products,
    }
    return {name: spots.n_obs / seconds(call, 5) for name, call in calls.items()}


def training(adata: ad.AnnData, accelerator: str, workers: int, precision: str, batch_size: int) -> dict[str, float]:
    """Return spots per second and the share of the time spent waiting for a batch, over the epochs after the first."""
    scvi.settings.seed, scvi.settings.dl_num_workers = 0, workers
    scvi.settings.dl_persistent_workers = workers > 0
    model, profiler = sagefm.SAGEFM(adata), SimpleProfiler()
    options = {"enable_progress_bar": False, "early_stopping": False, "profiler": profiler, "precision": precision}
    model.train(max_epochs=6, accelerator=accelerator, devices=1, train_size=1.0, batch_size=batch_size, **options)
    epochs = profiler.recorded_durations["run_training_epoch"][1:]
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    waits = waits[len(waits) // 6 :]
    return {"spots/s": 5 * adata.n_obs / sum(epochs), "share of waiting": sum(waits) / sum(epochs)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", type=Path)
    parser.add_argument("--accelerator", default="cuda", choices=["cuda", "mps", "cpu"])
    parser.add_argument("--genes", type=int, default=14_558, help="of the simulated section for single steps")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 1024], help="spots in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--product", type=int, default=SIZE)
    parser.add_argument("--out", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    device = arguments.accelerator
    real, simulated = ad.read_h5ad(arguments.section), section(max(arguments.sizes), arguments.genes, 0.15)
    for adata in (real, simulated):
        sagefm.SAGEFM.setup_anndata(adata)
    networks = {"default": {}, "published": sagefm.SAGEFM.published_architecture()}
    numbers = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "ceilings": ceilings(device, arguments.product),
        "steps": steps(simulated, device, networks, arguments.sizes),
        "embedding, spots/s": {"shape": real.shape, **embedding(real, device)},
        "training on the section": {
            f"{size} spots, {precision}, {workers} workers": training(real, device, workers, precision, size)
            for size in arguments.sizes
            for precision in PRECISIONS
            for workers in arguments.workers
        },
    }
    print(report := json.dumps(numbers, indent=1))
    if arguments.out:
        arguments.out.write_text(report)
