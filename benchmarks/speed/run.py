"""Time each stage, as a ratio to the bare dense matrix products of the same sizes, measured alongside.

    python benchmarks/speed/run.py [--rounds 9] [--out FOLDER] [--store]

Each round times every stage once, including the products, on one thread and in processor time, so that other processes
on the machine have little influence. The ratio of a stage is the median over rounds of its time divided by that of the
products in the same round. The report is written next to this file as `report.csv` and `report.md`; `baseline.json`
holds the ratios of an earlier run, which `--store` replaces. A separate script, `scale.py`, measures large sections.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from _simulated import section as simulated
from _stages import Stages, embedding_stages, model_of, training_stages

sys.path.append(str(Path(__file__).parents[1]))
from _sections import FOLDER, section

HERE = Path(__file__).parent
BASELINE, MOVED = HERE / "baseline.json", 0.2
SECTIONS: dict[str, Callable[[], ad.AnnData]] = {
    "simulated, 2,900 x 33,538, 6 %": lambda: simulated(2_900, 33_538, 0.06),
    "dlpfc_maynard2021__151673": lambda: real("dlpfc_maynard2021__151673"),
}


def real(name: str) -> ad.AnnData:
    """Read a section, dropping spots without counts."""
    adata = section(name)
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


def measured(stages: Stages, rounds: int) -> pd.DataFrame:
    """Return the seconds of each stage and its ratio to the products, after one warm-up round."""
    seconds = pd.DataFrame([{name: spent(call) for name, call in stages.items()} for _ in range(rounds + 1)])[1:]
    ratios = seconds.div(seconds["products"], axis=0)
    return pd.DataFrame({"seconds": seconds.median(), "ratio": ratios.median(), "lowest": ratios.min()})


def spent(call: Callable[[], object]) -> float:
    """Return the processor time of a call in seconds."""
    start = time.process_time()
    call()
    return time.process_time() - start


def report(rounds: int) -> pd.DataFrame:
    """Measure every section that is available."""
    tables = {}
    for name, read in SECTIONS.items():
        if not name.startswith("simulated") and not (FOLDER / f"{name}.h5ad").exists():
            print(f"{name} is not in {FOLDER}: left out.")
            continue
        model = model_of(read())
        with tempfile.TemporaryDirectory() as folder:
            tables[name, "embedding"] = measured(embedding_stages(model, Path(folder)), rounds)
        tables[name, "training step"] = measured(training_stages(model), rounds)
    return pd.concat(tables, names=["section", "of", "stage"])


def with_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """Add the stored ratios, and mark each stage whose ratio changed by more than a fifth."""
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    table["baseline"] = [stored.get(" | ".join(key)) for key in table.index]
    change = table["ratio"] / table["baseline"].astype(float) - 1
    table["moved"] = np.select([change > MOVED, change < -MOVED], ["slower", "faster"], "")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--store", action="store_true", help="store these ratios as the new baseline")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for noisy in ("sagefm", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = with_baseline(report(arguments.rounds))
    found.to_csv(arguments.out / "report.csv", float_format="%.4g")
    (arguments.out / "report.md").write_text(found.reset_index().to_markdown(index=False, floatfmt=".3g") + "\n")
    print(found.reset_index().to_markdown(index=False, floatfmt=".3g"))
    if arguments.store:
        BASELINE.write_text(
            json.dumps({" | ".join(k): round(r, 3) for k, r in found["ratio"].items()}, indent=1) + "\n"
        )
    moved = found[found["moved"] != ""]
    print(f"{len(moved)} of {len(found)} ratios moved by more than {MOVED:.0%} against {BASELINE.name}.")
