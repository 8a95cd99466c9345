"""Location of the benchmark sections."""

import os
from pathlib import Path

import anndata as ad

FOLDER = Path(os.environ.get("SAGEFM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "sections"


def section(name: str) -> ad.AnnData:
    """Read one section by its file name, given without extension."""
    return ad.read_h5ad(FOLDER / f"{name}.h5ad")
