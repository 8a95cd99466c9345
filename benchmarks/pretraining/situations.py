"""Compare a model trained on a section, pretrained weights as they are, and the same weights trained on the section.

    python benchmarks/pretraining/situations.py SECTIONS human-mini --sections her2st_andersson2021__F1 --out scores.csv
    python benchmarks/pretraining/situations.py SECTIONS human-mini --sections ... --sizes 100 200 400 800

SECTIONS is a folder of `.h5ad` files. With `--sizes`, compact pieces of that many spots are used instead of the whole
section. All three models are scored on the same held-out spots: mean r of the 500 most expressed genes that the weights
know, fitted to the section and not fitted, next to the mean of the neighbours and the ceiling from noise.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from sklearn.neighbors import NearestNeighbors

import sagefm

METHODS = ("scratch", "zero-shot", "fine-tuned")


def main() -> None:
    """Score all sections, sizes and seeds, and print means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--sections", nargs="+", required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[0], help="0: the whole section")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--train", type=json.loads, default={}, help="arguments of `train` in fine-tuning, as JSON")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = pd.DataFrame(
        {"section": name, "size": size, "seed": seed, **row}
        for name in arguments.sections
        for size in arguments.sizes
        for seed in arguments.seeds
        for row in scored(arguments, name, size, seed)
    )
    if arguments.out:
        rows.to_csv(arguments.out, index=False, float_format="%.4f")
    print(rows.groupby(["section", "size", "method"]).mean().round(3).to_string())


def scored(arguments: argparse.Namespace, name: str, size: int, seed: int) -> Iterator[dict]:
    """Yield one row per method."""
    adata = ad.read_h5ad(arguments.folder / f"{name}.h5ad")
    adata.obs_names_make_unique()
    if size >= adata.n_obs:
        return
    piece = compact_piece(adata, size, seed) if size else adata
    known = set(sagefm.SAGEFM.from_pretrained(arguments.weights).genes)
    piece = piece[:, piece.var_names.isin(known) & (np.asarray((piece.X > 0).sum(axis=0)).ravel() >= 3)].copy()
    piece = piece[np.asarray(piece.X.sum(axis=1)).ravel() > 0].copy()
    held_out = None
    for method in METHODS:
        start = time.process_time()
        model = trained(method, piece, arguments, seed)
        seconds = time.process_time() - start
        if held_out is None:  # fine-tuning draws the same split from the same seed
            held_out = np.sort(model.validation_indices)
        tables = {fit: model.get_masked_recovery(fit_section=fit, indices=held_out) for fit in (False, True)}
        top = tables[True].nlargest(500, "mean_expression")
        yield {
            "method": method,
            "n_spots": piece.n_obs,
            "n_held_out": len(held_out),
            "alone": tables[False].loc[top.index, "r"].mean(),
            "fitted": top["r"].mean(),
            "neighbors": top["r_neighbors"].mean(),
            "ceiling": top["r_max"].mean(),
            "cpu_seconds": seconds,
        }


def trained(method: str, piece: ad.AnnData, arguments: argparse.Namespace, seed: int) -> sagefm.SAGEFM:
    """Return the model of one method."""
    scvi.settings.seed = seed
    if method == "scratch":
        sagefm.SAGEFM.setup_anndata(piece)
        model = sagefm.SAGEFM(piece)
    else:
        model = sagefm.SAGEFM.from_pretrained(arguments.weights, piece)
    if method != "zero-shot":
        more = arguments.train if method == "fine-tuned" else {}
        model.train(**{"accelerator": "cpu", "enable_progress_bar": False, **more})
    return model


def compact_piece(adata: ad.AnnData, size: int, seed: int) -> ad.AnnData:
    """Return the `size` spots nearest to one drawn at random."""
    center = np.random.default_rng(seed).integers(adata.n_obs)
    found = NearestNeighbors(n_neighbors=size).fit(adata.obsm["spatial"])
    return adata[found.kneighbors(adata.obsm["spatial"][[center]])[1][0]].copy()


if __name__ == "__main__":
    main()
