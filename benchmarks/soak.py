"""Does memory stay level, and do results stay the same, over many cycles in one process?

python benchmarks/soak.py [--cycles 50] [--section NAME]

Each cycle loads shared weights, embeds, imputes, perturbs and saves.
"""

import argparse
import gc
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import psutil
from _sections import section

import sagefm

TO_SETTLE = 3  # warm-up cycles, for allocators, caches and lazy imports


def tissue(name: str | None) -> ad.AnnData:
    """Return the named section, or a simulated one if no name is given."""
    return section(name) if name else sagefm.datasets.simulated_tissue(30, 30, n_genes=500)


def cycle(weights: Path, adata: ad.AnnData, folder: Path) -> list[np.ndarray]:
    """Load, embed, impute, perturb and save; return the results."""
    model = sagefm.SAGEFM.from_pretrained(weights, adata)
    genes = list(model.genes[:4])
    mask = np.random.default_rng(0).random(adata.shape) < 0.1
    results = [
        model.get_latent_representation(),
        model.impute_masked(genes=genes).to_numpy(),
        model.impute_masked(mask=mask).to_numpy(),
        model.perturb(genes[:2], genes[2:], n_controls=20)[["effect", "p"]].to_numpy(),
    ]
    model.save_pretrained(folder / "weights", overwrite=True)
    model.save(folder / "scvi", overwrite=True)
    model.deregister_manager(adata)  # otherwise scvi-tools keeps the section until the process ends
    return results


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def trained(adata: ad.AnnData) -> sagefm.SAGEFM:
    """Train the model whose weights are shared."""
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=2, enable_progress_bar=False)
    return model


def main(n_cycles: int, name: str | None) -> None:
    """Print the memory after each cycle, its slope, and whether the results stayed the same."""
    memory: list[float] = []
    first: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "shared"
        trained(tissue(name)).save_pretrained(weights)
        for number in range(n_cycles):
            results = cycle(weights, tissue(name), Path(folder))
            first = first or results
            same = all(np.array_equal(*pair, equal_nan=True) for pair in zip(first, results, strict=True))
            memory.append(resident())
            print(
                f"cycle {number + 1}: {memory[-1]:.0f} MiB, results {'identical' if same else 'DIFFERENT'}", flush=True
            )
    settled = memory[TO_SETTLE:]
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    print(
        f"{name or 'simulated'}: after {TO_SETTLE} cycles {settled[0]:.0f} MiB, at the end {settled[-1]:.0f} MiB, ",
        end="",
    )
    print(f"{slope:+.2f} MiB a cycle ({slope / settled[0]:+.3%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--section", help="name of a section in SAGEFM_DATA (default: a simulated section)")
    arguments = parser.parse_args()
    main(arguments.cycles, arguments.section)
