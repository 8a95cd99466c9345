"""Whether two versions of sagefm give the same numbers: record them with one, compare with the other.

    python benchmarks/parity.py record FOLDER     # with the version before a change
    python benchmarks/parity.py compare FOLDER    # with the version after it

On a simulated tissue and two real sections a small model is trained, saved by `save` and by `save_pretrained`, and its
embedding, masked recovery, imputation, perturbation and influence are recorded. `compare` does the same with the saved
models (which shows that older folders load) and with models that it trains again. Real sections are read from the
folder in the variable SAGEFM_DATA.
"""

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi

import sagefm

ROOT = Path(__file__).parents[1]
SECTIONS = Path(os.environ.get("SAGEFM_DATA", ROOT / "../shared/data")) / "sections"
TOLERANCE = 1e-5
RECOVERY = ["r", "r_neighbors", "r_pooled", "n", "mean_expression"]
REAL = {"her2st_andersson2021__A1": 6, "heart_asp2019__5_CN74_E1_HE": 10}  # section: epochs


def simulated() -> ad.AnnData:
    return sagefm.datasets.simulated_tissue(24, 24, n_genes=400, n_sections=2)


def real(name: str) -> ad.AnnData:
    adata = ad.read_h5ad(SECTIONS / f"{name}.h5ad")
    adata.var_names_make_unique()
    return adata[:, np.asarray(adata.X.sum(axis=0)).ravel() >= 20].copy()


INPUTS: dict[str, Callable[[], ad.AnnData]] = {"simulated": simulated} | {
    name: lambda name=name: real(name) for name in REAL
}


def setup_keys(name: str) -> dict[str, str]:
    return {"sample_key": "sample"} if name == "simulated" else {}


def trained(name: str, adata: ad.AnnData) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    sagefm.SAGEFM.setup_anndata(adata, **setup_keys(name))
    model = sagefm.SAGEFM(adata, n_hidden=64, n_latent=16)
    model.train(max_epochs=REAL.get(name, 10), accelerator="cpu", enable_progress_bar=False)
    return model


def numbers(model: sagefm.SAGEFM) -> dict[str, np.ndarray]:
    """Return all results of a model, each as an array: tables of several quantities column by column."""
    adata = model.adata
    totals = np.asarray(adata.X.sum(axis=0)).ravel()
    genes = list(adata.var_names[np.argsort(-totals)[:12]])
    everything = np.arange(adata.n_obs)
    mask = np.random.default_rng(0).random(adata.shape) < 0.2
    whole = {
        "embedding": model.get_latent_representation(key_added=None),
        "imputed genes": model.impute_masked(genes=genes[:4]),
        "imputed genes as counts": model.impute_masked(genes=genes[:4], scale="counts"),
        "imputed entries, network alone": model.impute_masked(mask=mask, fit_section=False),
        "imputed entries, fitted": model.impute_masked(mask=mask),
        "dose response": model.get_dose_response(genes[0], genes[5]),
    }
    by_column = {
        "recovery, network alone": model.get_masked_recovery(fit_section=False, indices=everything)[RECOVERY],
        "recovery, fitted": model.get_masked_recovery(n_masks=2, indices=everything)[RECOVERY],
        "perturbation": model.perturb(genes[:3], genes[4:8], n_controls=20),
        "perturbation in the spot": model.perturb(genes[:2], genes[4:6], where="self", n_controls=0),
        "influence": model.get_gene_influence(genes[8]).sort_values("gene"),
    }
    for name, table in by_column.items():
        whole |= {f"{name}: {column}": values for column, values in table.select_dtypes("number").items()}
    return {name: np.asarray(values, dtype=float) for name, values in whole.items()}


def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in INPUTS.items():
        model = trained(name, make())
        model.save(folder / name / "saved", overwrite=True)
        model.save_pretrained(folder / name / "pretrained", overwrite=True)
        (folder / name / "numbers.pkl").write_bytes(pickle.dumps(numbers(model)))
        print(f"recorded {name}")


def differences(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> pd.Series:
    """Return the largest difference in each result, relative to its largest value; infinite if a NaN moved."""
    return pd.Series({name: _difference(expected[name], found[name]) for name in expected if name in found})


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape or (np.isnan(one) != np.isnan(other)).any():
        return np.inf
    return float(np.nanmax(np.abs(one - other), initial=0) / max(np.nanmax(np.abs(one), initial=0), 1))


def compare(folder: Path) -> pd.DataFrame:
    table = {}
    for name, make in INPUTS.items():
        expected = pickle.loads((folder / name / "numbers.pkl").read_bytes())
        adata = make()
        sagefm.SAGEFM.setup_anndata(adata, **setup_keys(name))
        models = {
            "saved": sagefm.SAGEFM.load(folder / name / "saved", adata),
            "pretrained": sagefm.SAGEFM.from_pretrained(folder / name / "pretrained", make(), **setup_keys(name)),
            "trained again": trained(name, make()),
        }
        for kind, model in models.items():
            table[name, kind] = differences(expected, numbers(model))
    return pd.DataFrame(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "record":
        record(arguments.folder)
    else:
        result = compare(arguments.folder)
        print(result.to_markdown(floatfmt=".1e"))
        print(f"largest difference by model, tolerance {TOLERANCE:g}:", *result.max().items(), sep="\n")
