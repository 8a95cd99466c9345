"""Write the table of sections for training the packaged weights "human-mini" or "mouse-mini".

    python benchmarks/pretraining/packaged.py SECTIONS human human.csv
    sagefm pretrain human.csv --out human-mini --split-key split --min-share 0.2 --half --max-epochs 12 \
        --accelerator cpu --workers 1 --model '{"n_hidden": 128, "n_latent": 64}'
    python benchmarks/pretraining/packaged.py SECTIONS mouse mouse.csv
    sagefm pretrain mouse.csv --out mouse-mini --split-key split --min-share 0.2 --half --max-epochs 14 \
        --accelerator cpu --workers 1 --model '{"n_hidden": 128, "n_latent": 64}' --plan '{"lr": 0.0005}'

A number after the name of the table keeps that many training sections, drawn at random (seed 0; fewer are a subset of
more). SECTIONS is a folder of `.h5ad` files whose `uns["sagefm_source"]` holds species, licence and publication. Whole
patients and animals are held out, and of small panels nothing is taken. Exceptions: the two cortex sections are of one
donor, and the two spine sections are parts of one capture area.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

VALIDATION = (
    "her2st_andersson2021__E",
    "dlpfc_maynard2021__151674",
    "brain_ma2025__T2791",
    "mouse_liver_hildebrandt2021__CN65_E1",
    "mouse_hippocampus_stutility__Hippo4",
)
TEST = (
    "her2st_andersson2021__F",
    "brain_ma2025__T4515",
    "colon_fawknercorbett2021",
    "mouse_liver_hildebrandt2021__CN65_D",
    "mouse_hippocampus_stutility__Hippo6",
    "mouse_muscle_mckellar2021__Vis7B",
    "mouse_mob_stahl2016",
    "mouse_spine_xu2026__Mutant",
)
LEAST_GENES = 2000


def split_of(sample: str) -> str:
    """Return the split of a section."""
    if sample.startswith(TEST):
        return "test"
    return "validation" if sample.startswith(VALIDATION) else "train"


def describe(path: Path) -> dict[str, str | int]:
    """Return the row of the table for one section."""
    section = ad.read_h5ad(path, backed="r")
    source = section.uns["sagefm_source"]
    return {
        "path": str(path.resolve()),
        "sample": path.stem,
        "species": str(source["species"]),
        "licence": str(source["licence"]),
        "source": str(source["publication"]),
        "split": split_of(path.stem),
        "n_vars": section.n_vars,
    }


def main(sections: str, species: str, table: str, n_train: str | None = None) -> None:
    """Write the sections of one species in a folder to a CSV file, with all or `n_train` of those for training."""
    rows = pd.DataFrame([describe(path) for path in sorted(Path(sections).glob("*.h5ad"))])
    chosen = rows[(rows["species"] == species) & (rows["n_vars"] >= LEAST_GENES)]
    train = chosen["sample"][chosen["split"] == "train"].to_numpy()
    left_out = [] if n_train is None else np.random.default_rng(0).permutation(train)[int(n_train) :]
    chosen = chosen[~chosen["sample"].isin(left_out)]
    chosen.drop(columns=["species", "n_vars"]).to_csv(table, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
