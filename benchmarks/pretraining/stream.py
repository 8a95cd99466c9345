"""Stream a corpus through the loader and through training: peak memory, share of time waiting, spots per second.

    python benchmarks/pretraining/simulate.py CORPUS --sections 60
    python benchmarks/pretraining/stream.py CORPUS --workers 2 --steps 300

Memory is the total of the process and its workers, with shared pages counted once (PSS), sampled four times a second.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import scvi
import torch
from lightning import Trainer
from lightning.pytorch.profilers import SimpleProfiler

import sagefm
from sagefm.pretraining import Corpus, CorpusDataModule

sys.path.insert(0, str(Path(__file__).parents[1]))
from _memory import PeakMemory

warnings.simplefilter("ignore")


def loader_alone(data: CorpusDataModule) -> dict[str, float]:
    """Load one epoch of batches and discard them."""
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    loader = data.train_dataloader()
    start, n_spots = time.perf_counter(), 0
    with PeakMemory(children=True) as memory:
        for batch in loader:
            n_spots += len(batch["X"])
    seconds = time.perf_counter() - start
    return {"spots": n_spots, "spots_per_s": n_spots / seconds, "peak_gib": memory.peak / 2**30}


def training(corpus: Corpus, data: CorpusDataModule, steps: int, precision: str) -> dict[str, float]:
    """Train for some steps; waiting is the time that Lightning's profiler records for fetching the next batch."""
    scvi.settings.seed = 0
    model, profiler = sagefm.SAGEFM(registry=corpus.registry), SimpleProfiler()
    start = time.perf_counter()
    with PeakMemory(children=True) as memory:
        model.train(
            max_epochs=10_000,
            max_steps=steps,
            datamodule=data,
            early_stopping=False,
            profiler=profiler,
            precision=precision,
            enable_progress_bar=False,
        )
    whole = time.perf_counter() - start
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    epochs = sum(profiler.recorded_durations["run_training_epoch"])
    return {
        "steps": len(waits),
        "spots_per_s": len(waits) * data.batch_size / epochs,
        "share_waiting": sum(waits) / epochs,
        "longest_wait_s": max(waits),
        "share_waiting_after_first": sum(waits[1:]) / (epochs - waits[0]),
        "seconds_with_moments": whole,
        "peak_gib": memory.peak / 2**30,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--buffer-size", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-training", action="store_true", help="skip the epoch of the loader without training")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    numbers = {}
    for name in ("index", "index_again"):
        start = time.perf_counter()
        corpus = Corpus(arguments.corpus, index=arguments.corpus / "index")
        numbers[name] = {"seconds": time.perf_counter() - start, "spots": corpus.n_obs, "sections": len(corpus)}
    options = {"batch_size": arguments.batch_size, "buffer_size": arguments.buffer_size, "seed": 0}
    data = CorpusDataModule(corpus, num_workers=arguments.workers, validation_size=0.0, **options)
    if not arguments.only_training:
        numbers["loader"] = loader_alone(data)
    numbers["training"] = training(corpus, data, arguments.steps, arguments.precision)
    print(json.dumps(numbers, indent=1))
