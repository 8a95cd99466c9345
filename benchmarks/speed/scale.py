"""Embedding and training on simulated sections of growing size, backed by a file: time a spot, and peak memory.

    python benchmarks/speed/scale.py [--spots 3000 10000 100000 500000] [--genes 18000] [--density 0.04] [--folder DIR]

Each size runs in a process of its own, on one thread; peak memory is that of the whole process, libraries included.
Times are processor time. 3,000 spots run again after each size, since a machine is not as fast at all times. The files
are deleted: 500,000 spots of 18,000 genes at 4 % are 3 GB on disk.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import torch
from _simulated import write_section

N_STEPS, REFERENCE = 10, 3_000


def measure(path: Path) -> dict[str, float]:
    """Set up, train some steps and embed one file, opened backed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import sagefm

    for noisy in ("sagefm", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    numbers: dict[str, float] = {"libraries_GiB": peak()}
    adata = ad.read_h5ad(path, backed="r")

    def timed(name: str, call: object) -> None:
        start = time.process_time()
        call()
        numbers[f"{name}_s"] = time.process_time() - start
        numbers[f"{name}_GiB"] = peak()

    timed("setup", lambda: sagefm.SAGEFM.setup_anndata(adata))
    model = sagefm.SAGEFM(adata)
    model.is_trained_ = True  # of random weights: time does not depend on them
    timed("embedding", lambda: model.get_latent_representation())
    model.is_trained_ = False
    steps = {"limit_train_batches": N_STEPS, "limit_val_batches": 2, "enable_progress_bar": False}
    timed("training", lambda: model.train(max_epochs=1, **steps))
    return {"spots": adata.n_obs, **numbers, "embedding_ms_a_spot": 1e3 * numbers["embedding_s"] / adata.n_obs}


def peak() -> float:
    """Return the most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_a_process(path: Path) -> dict[str, float]:
    """Measure in a fresh process, whose peak is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, nargs="+", default=[3_000, 10_000, 100_000, 500_000])
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--density", type=float, default=0.04)
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = Path(folder) / "small.h5ad"
        write_section(small, REFERENCE, arguments.genes, arguments.density)
        for n_spots in arguments.spots:
            path = Path(folder) / f"{n_spots}.h5ad"
            write_section(path, n_spots, arguments.genes, arguments.density)
            row, reference = in_a_process(path), in_a_process(small)
            row["time_a_spot_ratio"] = row["embedding_ms_a_spot"] / reference["embedding_ms_a_spot"]
            rows.append({**row, "file_GiB": path.stat().st_size / 2**30})
            path.unlink()
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "scale.csv", index=False, float_format="%.4g")
    (arguments.out / "scale.md").write_text(table.T.to_markdown(floatfmt=".3g") + "\n")
    print(table.T.to_markdown(floatfmt=".3g"))
