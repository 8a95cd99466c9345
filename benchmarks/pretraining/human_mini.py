"""Write the table of sections for training the packaged weights "human-mini".

    python benchmarks/pretraining/human_mini.py SECTIONS human_mini.csv
    sagefm pretrain human_mini.csv --out human-mini --split-key split --min-share 0.2 --half --max-epochs 40 \
        --accelerator cpu --model '{"n_hidden": 128, "n_latent": 64}'

SECTIONS is a folder of `.h5ad` files whose `uns["sagefm_source"]` holds species, licence and publication. Whole
patients are held out, with one exception: the two cortex sections are from one donor, and one of them is used for
training, the other for validation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import pandas as pd

VALIDATION = ("her2st_andersson2021__E", "dlpfc_maynard2021__151674")
TEST = ("her2st_andersson2021__F",)


def split_of(sample: str) -> str:
    """Return the split of a section."""
    if sample.startswith(TEST):
        return "test"
    return "validation" if sample.startswith(VALIDATION) else "train"


def describe(path: Path) -> dict[str, str]:
    """Return the row of the table for one section."""
    source = ad.read_h5ad(path, backed="r").uns["sagefm_source"]
    return {
        "path": str(path.resolve()),
        "sample": path.stem,
        "species": str(source["species"]),
        "licence": str(source["licence"]),
        "source": str(source["publication"]),
        "split": split_of(path.stem),
    }


def main(sections: str, table: str) -> None:
    """Write the human sections of a folder to a CSV file."""
    rows = pd.DataFrame([describe(path) for path in sorted(Path(sections).glob("*.h5ad"))])
    rows[rows["species"] == "human"].drop(columns="species").to_csv(table, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
