"""Where the benchmark sections are, and how several become one AnnData."""

import os
from pathlib import Path

import anndata as ad
import numpy as np

FOLDER = Path(os.environ.get("SAGEFM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "sections"


def section(name: str) -> ad.AnnData:
    """Read one section by its file name without ending."""
    return ad.read_h5ad(FOLDER / f"{name}.h5ad")


def sections(*patterns: str) -> ad.AnnData:
    """Read and join the sections whose names match; genes that all of them have, spots that have counts."""
    paths = sorted(path for pattern in patterns for path in FOLDER.glob(f"{pattern}.h5ad"))
    joined = ad.concat(
        [ad.read_h5ad(path) for path in paths], join="inner", index_unique="-", keys=[p.stem for p in paths]
    )
    return joined[np.asarray(joined.X.sum(axis=1)).ravel() > 0].copy()
