"""Run one method on one file, in the environment of the method: _worker.py MODULE OPTIONS INPUT OUTPUT SEED."""

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def main() -> None:
    module_name, options, source, target, seed = sys.argv[1:]
    import anndata
    import numpy as np

    try:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    except ImportError:
        pass
    method = importlib.import_module(f"methods.{module_name}")
    adata = anndata.read_h5ad(source)
    start, busy = time.perf_counter(), time.process_time()
    result = np.asarray(method.embed(adata, int(seed), **json.loads(options)))
    cost = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy, "peak_mib": peak_mib()}
    if len(result) != adata.n_obs or not np.isfinite(result).all():
        raise ValueError(f"{module_name} gave {result.shape} for {adata.n_obs} spots, or numbers that are not finite")
    np.save(target, result)
    print(json.dumps({**cost, "n_numbers": result.shape[1] if result.ndim == 2 else 0}))


def peak_mib() -> float:
    """Return the peak resident memory of this process so far in MiB, libraries included."""
    # Not getrusage: its value is never below the memory of the parent when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
