"""Measure how good representations and predictions are, one task at a time, and write tidy CSV.

python benchmarks/quality/run.py TASK [--methods pca sagefm ...] [--datasets cortex_151673 ...] [--out FOLDER]

Tasks: domains, annotation, regions, mixing (of representations); recovery, missing_genes (of predictions); ablations
(of the default network: its variants stand for methods). What a method gives is kept below OUT/cache, so that a second
run only scores; --fresh trains again. Rows of the methods and data sets that are run replace their old rows in
OUT/TASK.csv; all others stay.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import pandas as pd
from _protocol import HERE, METHODS, PROTOCOL

OF_PREDICTIONS = ("recovery", "missing_genes")
VARIANTS = PROTOCOL["ablations"]["variants"]


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
    parser.add_argument("--methods", nargs="+", help="rows of methods.toml; all by default")
    parser.add_argument("--datasets", nargs="+", help="data sets of the task in protocol.toml; all by default")
    seeds = PROTOCOL["representations"]["training_seeds"]
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds, help="of methods that draw random numbers")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--fresh", action="store_true", help="run the methods again though their results are there")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods or ()) - set(METHODS) - {"neighbors", "regression", *VARIANTS}:
        sys.exit(f"No method {sorted(unknown)[0]!r} in methods.toml; there are {', '.join(METHODS)}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def keep(rows: pd.DataFrame, path: Path) -> None:
    """Write rows in the place of older ones of the same method, data set and seed."""
    keys = ["dataset", "method", "seed"]
    if path.exists():
        old = pd.read_csv(path)
        replaced = old.set_index(keys).index.isin(rows.set_index(keys).index)
        rows = pd.concat([old[~replaced], rows])
    rows.sort_values(keys, kind="stable").to_csv(path, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
