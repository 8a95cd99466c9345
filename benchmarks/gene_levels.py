"""At which level do whole genes come back? Recovered mean counts over measured ones, packaged weights.

    python benchmarks/gene_levels.py [SECTION ...]

Sections are names of files in the folder that the variable SAGEFM_DATA names. Of the genes that a section and the
model share and that have at least ten counts in it, 1,000 are drawn (seed 0; fewer where this would be more than a
fifth) and predicted three times: while they are masked, at the level of the training data and at the level of the
section; and on a copy of the section that lacks them.
"""

import argparse
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from _sections import section

import sagefm

SECTIONS = [
    "her2st_andersson2021__F1",
    "dlpfc_maynard2021__151674",
    "colon_fawknercorbett2021__A3_12PCW",
    "brain_ma2025__T4515",
    "prostate_10x_giottomini__CP",
]
WEIGHTS, N_GENES, LEAST_COUNTS = "human-mini", 1000, 10


def ratios(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Return recovered over measured mean counts, (genes,), for each way of predicting them."""
    model = sagefm.SAGEFM.from_pretrained(WEIGHTS, adata)
    totals = pd.Series(np.asarray(adata.X.sum(axis=0)).ravel(), index=adata.var_names)
    counted = totals[totals.index.isin(model.genes) & (totals >= LEAST_COUNTS)]
    drawn = counted.sample(min(N_GENES, len(counted) // 5), random_state=0)
    panel = adata[:, ~adata.var_names.isin(drawn.index)].copy()
    predicted = {
        "masked, level of the training data": model.impute_masked(genes=drawn.index, scale="counts", level="training"),
        "masked": model.impute_masked(genes=drawn.index, scale="counts"),
        "missing from the panel": model.impute_masked(panel, genes=drawn.index, scale="counts"),
    }
    return {name: (values.sum() / drawn).to_numpy() for name, values in predicted.items()}


def summary(ratio: np.ndarray) -> dict[str, float]:
    """Return the median ratio and the share of genes within a factor of three."""
    return {"median": np.median(ratio), "0.33 to 3": np.mean((ratio > 1 / 3) & (ratio < 3)), "genes": len(ratio)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=SECTIONS)
    warnings.simplefilter("ignore")
    rows = {}
    for name in parser.parse_args().sections:
        adata = section(name)
        adata.var_names_make_unique()
        adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
        rows |= {(name, which): summary(ratio) for which, ratio in ratios(adata).items()}
    table = pd.DataFrame(rows).T.rename_axis(["section", "genes are"]).reset_index().astype({"genes": int})
    print(table.to_markdown(index=False, floatfmt=".2f"))
