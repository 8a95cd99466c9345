"""How well `sagefm.tl.domains` estimates the number of domains.

    python benchmarks/quality/domain_numbers.py [--datasets cortex_151673 ...]

The representation is that of sagefm trained on the section (seed 0). Scores: the number that is chosen among 4 to 10,
and the ARI at this number, at the annotated number, and at six, the best guess without looking at the section.
"""

import argparse
import logging
import warnings

import anndata as ad
import pandas as pd
from _inputs import annotation, for_methods
from _protocol import PROTOCOL
from methods import ours
from sklearn.metrics import adjusted_rand_score

import sagefm

GUESS = 6


def scores(adata: ad.AnnData, truth: pd.Series) -> dict[str, float]:
    """Return the chosen and the annotated number, and the ARI with each of them and with the guess."""
    sagefm.tl.domains(adata)
    row = {"annotated": truth.nunique(), "chosen": adata.uns["domain"]["params"]["n_domains"]}
    row["ARI at the chosen"] = ari(adata, truth)
    for name, number in {"the annotated": truth.nunique(), str(GUESS): GUESS}.items():
        sagefm.tl.domains(adata, number)
        row[f"ARI at {name}"] = ari(adata, truth)
    return row


def ari(adata: ad.AnnData, truth: pd.Series) -> float:
    known = truth.notna().to_numpy()
    return adjusted_rand_score(truth[known], adata.obs["domain"][known].astype(str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(PROTOCOL["domains"]["datasets"]))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "sagefm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = {}
    for dataset in arguments.datasets:
        adata, given = for_methods([PROTOCOL["domains"]["datasets"][dataset]])
        adata.obsm["X_sagefm"] = ours.embed(given, 0)
        rows[dataset] = scores(adata, annotation(adata))
    table = pd.DataFrame(rows).T
    print(table.round(3).to_string(), table.mean().round(3).to_string(), sep="\n")
    for name, number in {"chosen": table["chosen"], str(GUESS): GUESS}.items():
        within = int(((number - table["annotated"]).abs() <= 1).sum())
        print(f"{name}: within one of the annotated number in {within} of {len(table)} sections")


if __name__ == "__main__":
    main()
