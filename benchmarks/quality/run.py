"""Measure how good representations and predictions are, one task at a time, and write tidy CSV files.

python benchmarks/quality/run.py TASK [--methods pca sagefm ...] [--datasets cortex_151673 ...] [--out FOLDER]

Tasks: domains, annotation, regions and mixing score representations; recovery and missing_genes score predictions;
ablations scores variants of the default network, which are selected with --methods. Results of methods are cached in
OUT/cache, so a second run only repeats the scoring; --fresh trains again. New rows replace the old rows of the same
methods, data sets and seeds in OUT/TASK.csv; all other rows stay.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import pandas as pd
from _protocol import HERE, OF_PREDICTIONS, PROTOCOL, methods_of


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.task == "ablations":
        from _ablations import measure
    elif arguments.task in OF_PREDICTIONS:
        from _predictions import measure
    else:
        from _score import measure
    for rows in measure(arguments):
        keep(rows, arguments.out / f"{arguments.task}.csv")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[task for task in PROTOCOL if task != "representations"])
    parser.add_argument("--methods", nargs="+", help="names from methods.toml (default: all)")
    parser.add_argument("--datasets", nargs="+", help="data sets of the task in protocol.toml (default: all)")
    seeds = PROTOCOL["representations"]["training_seeds"]
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds, help="seeds for methods that use random numbers")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--fresh", action="store_true", help="run the methods again even if there are cached results")
    arguments = parser.parse_args()
    names = methods_of(arguments.task)
    if unknown := set(arguments.methods or ()).difference(names):
        sys.exit(f"No method {sorted(unknown)[0]!r} for {arguments.task!r}; there are {', '.join(names)}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def keep(rows: pd.DataFrame, path: Path) -> None:
    """Write rows to a CSV file, replacing older rows of the same data set, method and seed."""
    keys = ["dataset", "method", "seed"]
    if path.exists():
        old = pd.read_csv(path, dtype={"smooth": str})
        replaced = old.set_index(keys).index.isin(rows.set_index(keys).index)
        rows = pd.concat([old[~replaced], rows])
    rows.sort_values(keys, kind="stable").to_csv(path, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
