"""Time per spot and peak memory of embedding and training on simulated, file-backed sections of increasing size.

    python benchmarks/speed/scale.py [--spots 3000 10000 100000 500000] [--genes 18000] [--density 0.04] [--folder DIR]

Each size runs in its own process, on one thread; peak memory is that of the whole process, libraries included. Times
are processor times. A section of 3,000 spots is measured again after each size, because the speed of a machine varies
over time. The files are deleted afterwards: 500,000 spots of 18,000 genes at 4 % density take 3 GB on disk.
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
    """Set up, embed and train for some steps on one file, opened in backed mode."""
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
    model.is_trained_ = True  # with random weights: time does not depend on them
    timed("embedding", lambda: model.get_latent_representation())
    model.is_trained_ = False
    steps = {"limit_train_batches": N_STEPS, "limit_val_batches": 2, "enable_progress_bar": False}
    timed("training", lambda: model.train(max_epochs=1, **steps))
    return {"spots": adata.n_obs, **numbers, "embedding_ms_a_spot": 1e3 * numbers["embedding_s"] / adata.n_obs}


def peak() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_a_process(path: Path) -> dict[str, float]:
    """Measure in a fresh process, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, nargs="+", default=[3_000, 10_000, 100_000, 500_000])
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--density", type=float, default=0.04)
    parser.add_argument("--folder", type=Path, help="folder for the temporary files")
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
