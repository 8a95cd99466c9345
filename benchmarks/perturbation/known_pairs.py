"""Do known ligand-receptor pairs stand out from matched random pairs in a real section? Results are printed either way.

python benchmarks/perturbation/known_pairs.py SECTION RESOURCE.csv [--seed 0] [--model FOLDER]

RESOURCE.csv has the columns source_genesymbol, target_genesymbol and resource, like the omni resource of LIANA; its
"consensus" pairs are used. FOLDER is a model saved with its AnnData; without it, a model is trained with default
arguments.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import scvi
from _pairs import auroc, beyond, matched_random

import sagefm

sys.path.insert(0, str(Path(__file__).parents[1]))
from _sections import section

warnings.simplefilter("ignore")


def trained(adata: ad.AnnData, seed: int) -> sagefm.SAGEFM:
    """Train a model with default arguments."""
    scvi.settings.seed = seed
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample_id")
    model = sagefm.SAGEFM(adata)
    model.train(enable_progress_bar=False)
    return model


def consensus(path: str) -> pd.DataFrame:
    """Read the consensus pairs."""
    table = pd.read_csv(path)
    return table[table["resource"] == "consensus"].drop(columns=["source", "target"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section")
    parser.add_argument("resource")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    given = parser.parse_args()
    model = sagefm.SAGEFM.load(given.model) if given.model else trained(section(given.section), given.seed)
    wall, processor = time.perf_counter(), time.process_time()
    known = sagefm.tl.ligand_receptor_screen(model, consensus(given.resource), seed=given.seed)
    print(
        f"{given.section}: {len(known)} consensus pairs, {model.adata.n_obs} spots, 5 levels, up to 400 controls: "
        f"{time.perf_counter() - wall:.0f} s, of the processor {time.process_time() - processor:.0f} s",
        flush=True,
    )
    random = model.perturb(pairs=matched_random(model, known, given.seed), seed=given.seed)
    table = pd.concat([known.assign(known=True), random.assign(known=False)]).dropna(subset=["p"])
    truth, plain = table["known"].to_numpy(), table["neighbor_correlation"].abs().fillna(0).to_numpy()
    print(f"known {truth.sum()}, random {(~truth).sum()}")
    print(f"plain correlation with the neighbours: AUROC {auroc(truth, plain)}")
    for name, score in (("size of the effect", table["scaled_effect"].abs()), ("1 - p", 1 - table["p"])):
        score = score.to_numpy()
        print(f"{name}: AUROC {auroc(truth, score)}; beyond plain correlation {auroc(truth, beyond(score, plain))}")
    for kind, part in table.groupby("known"):
        print(f"known={kind}: share p < 0.05 {(part['p'] < 0.05).mean():.3f}, smallest q {part['q'].min():.3f}")
    print(f"median size of the effects of known pairs {known['effect'].abs().median():.1e} (log1p)")
