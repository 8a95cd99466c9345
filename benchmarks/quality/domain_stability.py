"""How well the number of domains is estimated, and how much domains change when some spots are left out.

python benchmarks/quality/domain_stability.py numbers [--datasets cortex_151673 ...]
python benchmarks/quality/domain_stability.py spread [--share 0.95]

The representation is that of sagefm trained on the section (seed 0). `numbers`: the number that `tl.domains` chooses,
and the ARI at this number and at the annotated one; always taking six domains for comparison. `spread`: the standard
deviation of the ARI over five random subsets of the spots, with the consensus and with one round of averaging, and the
ARI between the domains of the subset and those of all spots.
"""

import argparse
import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from _inputs import annotation, for_methods
from _protocol import PROTOCOL
from methods import ours
from sklearn.metrics import adjusted_rand_score

import sagefm

CONSTANT = 6


def numbers(adata: ad.AnnData, truth: pd.Series, share: float) -> dict[str, float]:
    """Return the chosen and the annotated number, and the ARI with each of them."""
    sagefm.tl.domains(adata)
    chosen = adata.uns["domain"]["params"]["n_domains"]
    row = {"annotated": truth.nunique(), "chosen": chosen, "ARI at the chosen": ari(adata, truth)}
    for name, number in {"annotated": truth.nunique(), str(CONSTANT): CONSTANT}.items():
        sagefm.tl.domains(adata, number)
        row[f"ARI at {name}"] = ari(adata, truth)
    return row


def spread(adata: ad.AnnData, truth: pd.Series, share: float) -> dict[str, float]:
    """Return the standard deviation of the ARI over subsets, and the agreement with the domains of all spots."""
    row = {}
    for name, smooth in {"consensus": "auto", "averaged": 1}.items():
        sagefm.tl.domains(adata, truth.nunique(), smooth=smooth)
        whole, found, same = adata.obs["domain"].astype(str), [], []
        for seed in range(5):
            kept = np.random.default_rng(seed).random(adata.n_obs) < share
            part = adata[kept].copy()
            sagefm.tl.domains(part, truth.nunique(), smooth=smooth)
            found.append(ari(part, truth[kept]))
            same.append(adjusted_rand_score(whole[kept], part.obs["domain"].astype(str)))
        row |= {f"{name}, spread": np.std(found, ddof=1), f"{name}, same": np.mean(same)}
    return row


def ari(adata: ad.AnnData, truth: pd.Series) -> float:
    known = truth.notna().to_numpy()
    return adjusted_rand_score(truth[known], adata.obs["domain"][known].astype(str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["numbers", "spread"])
    parser.add_argument("--datasets", nargs="+", default=list(PROTOCOL["domains"]["datasets"]))
    parser.add_argument("--share", type=float, default=0.95, help="share of the spots in a subset")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "sagefm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = {}
    for dataset in arguments.datasets:
        adata, given = for_methods([PROTOCOL["domains"]["datasets"][dataset]])
        adata.obsm["X_sagefm"] = ours.embed(given, 0)
        rows[dataset] = {"numbers": numbers, "spread": spread}[arguments.measure](
            adata, annotation(adata), arguments.share
        )
        print(dataset, rows[dataset], flush=True)
    table = pd.DataFrame(rows).T
    print(table.round(3).to_string(), table.mean().round(3).to_string(), sep="\n")
    if arguments.measure == "numbers":
        for number in (table["chosen"], CONSTANT):
            print("within one:", int(((number - table["annotated"]).abs() <= 1).sum()), "of", len(table))


if __name__ == "__main__":
    main()
