"""Planted effects: are true pairs ranked above matched controls, with the right signs; are null pairs calibrated?

python benchmarks/perturbation/planted.py [--seeds 0 1 2] [--figure docs/images/perturbation_calibration.png]
"""

import argparse
import logging
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scvi
from _pairs import auroc, matched_random
from scipy.stats import kstest

import sagefm

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def null_pairs(model: sagefm.SAGEFM, n: int, seed: int) -> pd.DataFrame:
    """Draw pairs of genes that are not part of any planted pair."""
    role = model.adata.var["role"].isin(["marker", "background"]).to_numpy()
    seen = np.asarray((model.adata.X > 0).mean(axis=0)).ravel() > 0.02
    names = model.adata.var_names[role & seen]
    drawn = np.random.default_rng(seed).choice(names, (n, 2))
    return pd.DataFrame(drawn[drawn[:, 0] != drawn[:, 1]], columns=["source", "target"]).drop_duplicates()


def screened(seed: int) -> pd.DataFrame:
    """Train on one simulated section and perturb its pairs."""
    adata = sagefm.datasets.simulated_tissue(n_genes=1000, seed=seed)
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(enable_progress_bar=False)
    truth = adata.uns["simulated_tissue"]
    kinds = {
        "true": truth["interactions"][["source", "target", "sign"]],
        "matched": matched_random(model, truth["interactions"], seed, n_each=25),
        "decoy": truth["decoys"][["source", "target"]],
        "null": null_pairs(model, 1000, seed),
    }
    pairs = pd.concat(kinds, names=["kind"]).reset_index("kind").drop_duplicates(["source", "target"])
    return model.perturb(pairs=pairs, seed=seed).merge(pairs, on=["source", "target"]).assign(seed=seed)


def report(table: pd.DataFrame, name: str) -> None:
    """Print a summary of the effects."""
    true, null = table[table["kind"] == "true"], table[table["kind"] == "null"]
    signs = (np.sign(true["effect"]) == true["sign"]).mean()
    direction = (true["scaled_effect"].abs() > true["scaled_reverse_effect"].abs()).mean()
    print(f"{name}: {len(true)} true pairs, signs right {signs:.2f}, larger than the reverse effect {direction:.2f}")
    for other in ("matched", "decoy"):
        part = table[table["kind"].isin(["true", other])]
        truth = (part["kind"] == "true").to_numpy()
        scores = {
            "1 - p": 1 - part["p"],
            "effect": part["scaled_effect"].abs(),
            "plain correlation": part["neighbor_correlation"].abs(),
        }
        lines = [f"{score} {auroc(truth, values.to_numpy())}" for score, values in scores.items()]
        print(f"  AUROC over {other}: " + ", ".join(lines))
    found = [f"{(part['q'] < 0.05).sum()} of {len(part)} {kind}" for kind, part in table.groupby("kind")]
    print(f"  q < 0.05: {', '.join(found)}; smallest p {table['p'].min():.1e}")
    test = kstest(null["p"], "uniform")
    print(
        f"  {len(null)} null pairs: share p < 0.05 {(null['p'] < 0.05).mean():.3f}, p < 0.01 "
        f"{(null['p'] < 0.01).mean():.3f}; Kolmogorov-Smirnov p {test.pvalue:.2f}",
        flush=True,
    )


def draw(table: pd.DataFrame, path: str) -> None:
    """Plot observed against expected p-values of null pairs, and those of true pairs on the same axes."""
    p = np.sort(table.loc[table["kind"] == "null", "p"])
    expected = np.arange(1, len(p) + 1) / (len(p) + 1)
    _, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    ax.plot(-np.log10(expected), -np.log10(p), ".", color="#0072B2", label=f"{len(p)} null pairs")
    true = np.sort(table.loc[table["kind"] == "true", "p"])
    places = np.arange(1, len(true) + 1) / (len(true) + 1)
    ax.plot(-np.log10(places), -np.log10(true), ".", color="#D55E00", label=f"{len(true)} true pairs")
    ax.axline((0, 0), slope=1, color="0.5", linewidth=1)
    ax.set(xlabel="expected $-\\log_{10} p$", ylabel="observed $-\\log_{10} p$")
    ax.legend(frameon=False)
    ax.figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure")
    given = parser.parse_args()
    tables = [screened(seed) for seed in given.seeds]
    for seed, table in zip(given.seeds, tables, strict=True):
        report(table, f"seed {seed}")
    report(pd.concat(tables), "all seeds")
    if given.figure:
        draw(pd.concat(tables), given.figure)
