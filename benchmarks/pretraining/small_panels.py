"""Score pretrained weights on panels of a few hundred genes, cut from sections that they were not trained on.

    python benchmarks/pretraining/small_panels.py human.csv human-mini --out panels.csv

The table is that of `packaged.py`; its test sections are scored. The genes of a panel are drawn from those found in at
least 5 % of the spots. Per section, size and seed: mean r over all genes of the panel, for the network alone, fitted to
the section, the mean of the neighbours, and a model trained on the panel itself.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi

import sagefm
from sagefm.data import _genes

SIZES = (2000, 1000, 500, 300, 200, 100, 50)
MIN_SHARE_OF_SPOTS = 0.05


def main() -> None:
    """Score all panels of all test sections, and print means over sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--sections", nargs="+", help="names of sections; the table's test sections by default")
    parser.add_argument("--no-scratch", action="store_true", help="train no model on the panels")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = pd.read_csv(arguments.table)
    wanted = table["sample"].isin(arguments.sections) if arguments.sections else table["split"].eq("test")
    _genes.MIN_COVERAGE = 0  # smaller panels than users may pass are measured, too
    rows = []
    for section in table[wanted].itertuples():
        adata = ad.read_h5ad(section.path)
        adata.obs_names_make_unique()
        for size in arguments.sizes:
            for seed in arguments.seeds:
                scores = panel_scores(adata, arguments.weights, size, seed, scratch=not arguments.no_scratch)
                rows.append({"section": section.sample, "size": size, "seed": seed, **scores})
                print(rows[-1], flush=True)
    scores = pd.DataFrame(rows)
    if arguments.out:
        scores.to_csv(arguments.out, index=False, float_format="%.4f")
    print(scores.drop(columns=["section", "seed"]).groupby("size").mean().round(3).to_string())


def panel_scores(adata: ad.AnnData, weights: str, size: int, seed: int, *, scratch: bool) -> dict[str, float]:
    """Return the scores on one panel of known genes, drawn with `seed`."""
    known = adata.var_names.isin(sagefm.SAGEFM.from_pretrained(weights).genes)
    found = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= MIN_SHARE_OF_SPOTS
    genes = np.flatnonzero(known & found)
    panel = adata[:, np.random.default_rng(seed).permutation(genes)[:size]].copy()
    panel = panel[np.asarray(panel.X.sum(axis=1)).ravel() > 0].copy()
    model = sagefm.SAGEFM.from_pretrained(weights, panel)
    alone, fitted = (model.get_masked_recovery(fit_section=fit) for fit in (False, True))
    scores = {"n_genes": panel.n_vars, "neighbors": alone["r_neighbors"].mean(), "ceiling": alone["r_max"].mean()}
    scores |= {"alone": alone["r"].mean(), "fitted": fitted["r"].mean()}
    if scratch:
        scores |= own_model(panel, seed)
    return scores


def own_model(panel: ad.AnnData, seed: int) -> dict[str, float]:
    """Return the score of a model trained on the panel, on its held-out spots, and of the neighbours there."""
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(panel)
    model = sagefm.SAGEFM(panel)
    model.train(enable_progress_bar=False, accelerator="cpu")
    recovery = model.get_masked_recovery()
    return {"scratch_held_out": recovery["r"].mean(), "neighbors_held_out": recovery["r_neighbors"].mean()}


if __name__ == "__main__":
    main()
