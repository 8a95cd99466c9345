"""Masked recovery of the default model: a cortex section on its own, and breast-cancer patients held out.

python benchmarks/recovery.py [cortex] [breast] [--seed 0]
"""

import argparse
import logging
import time
import warnings

import anndata as ad
import scvi
from _sections import section, sections

import sagefm

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def cortex() -> tuple[ad.AnnData, ad.AnnData]:
    """Train and score on one section: its validation blocks are never trained on, the rest is."""
    adata = section("dlpfc_maynard2021__151673")
    return adata, adata


def breast() -> tuple[ad.AnnData, ad.AnnData]:
    """Train on patients A to D, score on patient F."""
    return sections("her2st_andersson2021__[ABCD]?"), sections("her2st_andersson2021__F?")


TASKS = {"cortex": cortex, "breast": breast}


def measure(name: str, seed: int) -> None:
    """Train with default arguments, score, and print one line."""
    train, test = TASKS[name]()
    scvi.settings.seed = seed
    start = time.perf_counter()
    sagefm.SAGEFM.setup_anndata(train, sample_key="sample_id")
    model = sagefm.SAGEFM(train)
    model.train(enable_progress_bar=False)
    seconds = time.perf_counter() - start
    totals = model.get_masked_recovery(None if test is train else test).attrs
    gain = totals["top500_r"] - totals["top500_r_neighbors"]
    print(
        f"{name}, seed {seed}: r of the 500 most expressed genes {totals['top500_r']:.3f}, mean of the neighbours "
        f"{totals['top500_r_neighbors']:.3f}, gain {gain:.3f}; median r {totals['median_r']:.3f} against "
        f"{totals['median_r_neighbors']:.3f}; share q < 0.05 {totals['share_q05']:.2f}; "
        f"{len(model.history['train_loss'])} epochs, {seconds:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for task in arguments.tasks or TASKS:
        measure(task, arguments.seed)
