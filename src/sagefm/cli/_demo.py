"""`sagefm demo`: load or simulate a section, train, embed, cluster, impute, report."""

import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from sagefm import tl
from sagefm.cli._demo_packaged import show_packaged
from sagefm.cli._demo_report import DOMAIN_KEY, report, truth_of, write
from sagefm.cli._output import messages, quiet, say
from sagefm.data import SetupKeys, log_scaled, neighbor_mean_operator, reading
from sagefm.datasets import simulated_tissue
from sagefm.model import SAGEFM, TOP, fisher_average

WEIGHTS = "human-mini"
DEFAULT_N_DOMAINS = 7
N_COMPONENTS = 20
N_IMPUTED_GENES = 3
MIN_SCORED = 50  # spots needed for a correlation
TRAINED, ZERO_SHOT = "SAGEFM", f"{WEIGHTS}, zero-shot"
SMOOTHED = {TRAINED: "SAGEFM latent, neighbourhood mean", ZERO_SHOT: f"{ZERO_SHOT}, neighbourhood mean"}
SMOOTHED_PCA = "PCA of the smoothed counts"


def run(
    source: Path | None,
    out: Path,
    keys: dict[str, Any],
    *,
    n_domains: int | None,
    max_epochs: int | None,
    seed: int,
    console: Console,
) -> None:
    """Run the demo on the file `source`, or on a simulated tissue, and write to the folder `out`."""
    out = out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        adata = _load(source, seed, console)
        truth = truth_of(adata)
        with messages(console):
            SAGEFM.setup_anndata(adata, **keys)
            n_domains = _number_of_domains(adata, truth, n_domains)
            models = {TRAINED: _train(adata, max_epochs, seed, console)}
            if source is not None:
                models |= _pretrained(adata, keys, console)
        logged = _log_normalized(adata, keys["layer"], models[TRAINED].target_depth)
        recoveries = _recoveries(models, seed)
        recovery = recoveries["all"][TRAINED]
        sections, graph = SetupKeys(**keys).sections(adata), SetupKeys(**keys).graph(adata)
        representations = {SMOOTHED[name]: model.get_latent_representation() for name, model in models.items()}
        representations[SMOOTHED_PCA] = _smoothed_pca(logged, graph)
        domains = _domains(representations, graph, truth, n_domains, seed)
        scores = {} if truth is None else {name: _score(found, truth) for name, found in domains.items()}
        imputed = _imputed_genes(models[TRAINED], logged, recovery, sections)
        report(console, recoveries, imputed, scores, n_domains)
        if source is None:
            with messages(console):
                show_packaged(adata, WEIGHTS, seed, console)
        adata.obs[DOMAIN_KEY] = domains[SMOOTHED[TRAINED]]
        write(out, adata, recovery, domains, scores, sections, console)


# Load and train -------------------------------------------------------------------------------------------------------


def _load(source: Path | None, seed: int, console: Console) -> AnnData:
    if source is None:
        adata, name = simulated_tissue(seed=seed), f"Simulated tissue, seed {seed}"
    else:
        with reading(source):
            adata, name = anndata.read_h5ad(source), source.name
    say(console, f"{name}: {adata.n_obs:,} spots, {adata.n_vars:,} genes.")
    return adata


def _number_of_domains(adata: AnnData, truth: pd.Series | None, requested: int | None) -> int:
    n_domains = requested or (DEFAULT_N_DOMAINS if truth is None else truth.nunique())
    if n_domains > adata.n_obs:
        raise ValueError(f"{adata.n_obs} spots cannot form {n_domains} domains; pass a lower --n-domains.")
    return n_domains


def _train(adata: AnnData, max_epochs: int | None, seed: int, console: Console) -> SAGEFM:
    scvi.settings.seed = seed
    # One core is left free: on small batches, threads that wait for a busy core cost more than they gain.
    scvi.settings.num_threads = max(1, torch.get_num_threads() - 1)
    model = SAGEFM(adata)
    start = time.perf_counter()
    model.train(max_epochs=max_epochs, enable_progress_bar=console.is_terminal)
    say(console, f"Trained {len(model.history['train_loss'])} epochs in {time.perf_counter() - start:.0f} s.")
    return model


def _pretrained(adata: AnnData, keys: dict[str, Any], console: Console) -> dict[str, SAGEFM]:
    """Set up the packaged weights with a copy of the section; empty if they do not know its genes."""
    try:
        return {ZERO_SHOT: SAGEFM.from_pretrained(WEIGHTS, adata.copy(), **keys)}
    except ValueError as error:
        reason = str(error).split(". ")[0]
        say(console, f"{WEIGHTS}, the weights that come with sagefm, are left out: {reason}.")
        return {}


# Embed and cluster ----------------------------------------------------------------------------------------------------


def _log_normalized(adata: AnnData, layer: str | None, depth: float) -> sp.csr_matrix:
    counts = sp.csr_matrix(adata.X if layer is None else adata.layers[layer])
    return log_scaled(counts, depth / np.asarray(counts.sum(axis=1)))


def _smoothed_pca(logged: sp.csr_matrix, graph: sp.csr_matrix) -> np.ndarray:
    """Return principal components of the mean over each spot and its neighbours, (spots, components)."""
    smoothed = sp.csr_matrix(neighbor_mean_operator(graph, with_self=True) @ logged)
    n_components = min(N_COMPONENTS, *np.subtract(smoothed.shape, 1))
    return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(smoothed)


def _domains(
    representations: dict[str, np.ndarray], graph: sp.csr_matrix, truth: pd.Series | None, n_domains: int, seed: int
) -> dict[str, pd.Categorical]:
    """Cluster the spots by each representation, all by one protocol, into domains "1", "2" and so on."""
    light = AnnData(obsm=representations, obsp={"spatial_connectivities": graph})
    categories = pd.Index([str(number + 1) for number in range(n_domains)], dtype=object)
    reference = None if truth is None else truth.cat.codes.to_numpy()
    domains = {}
    for name in representations:
        tl.domains(light, n_domains, use_rep=name, smooth=0 if name == SMOOTHED_PCA else 1, seed=seed)
        labels = light.obs["domain"].cat.codes.to_numpy()
        reference = labels if reference is None else reference
        domains[name] = pd.Categorical.from_codes(_renumbered(labels, reference, n_domains), categories)
    return domains


def _renumbered(labels: np.ndarray, reference: np.ndarray, n_labels: int) -> np.ndarray:
    """Renumber labels by the `reference` labels that they overlap most, so that colours agree between maps.

    A reference of -1 is missing.
    """
    known = reference >= 0
    shared = np.zeros((n_labels, max(n_labels, reference.max() + 1)))
    np.add.at(shared, (labels[known], reference[known]), 1)
    _, partner = linear_sum_assignment(shared, maximize=True)
    return np.argsort(np.argsort(partner))[labels]


def _score(domains: pd.Categorical, truth: pd.Series) -> float:
    """Return the adjusted Rand index over the annotated spots."""
    known = truth.notna().to_numpy()
    return float(adjusted_rand_score(truth[known], domains.codes[known]))


# Impute ---------------------------------------------------------------------------------------------------------------


def _recoveries(models: dict[str, SAGEFM], seed: int) -> dict[str, dict[str, pd.DataFrame]]:
    """Return recovery tables by spots and model: all spots, and first the held-out ones if there are enough."""
    recoveries = {}
    held_out = np.sort(np.asarray(models[TRAINED].validation_indices))
    if len(held_out) >= MIN_SCORED:
        table = models[TRAINED].get_masked_recovery(indices=held_out, seed=seed)
        recoveries[f"{len(held_out):,} held out"] = {TRAINED: table}
    tables = {name: model.get_masked_recovery(indices="all", seed=seed) for name, model in models.items()}
    return recoveries | {"all": tables}


def _imputed_genes(model: SAGEFM, logged: sp.csr_matrix, recovery: pd.DataFrame, sections: np.ndarray) -> pd.Series:
    """Mask some genes in every spot, and return the correlation of each with the truth within sections."""
    # Chosen without the model: the genes that follow the tissue most closely.
    top = recovery.nlargest(TOP, "mean_expression")["r_neighbors"].dropna()
    genes = list(top.nlargest(N_IMPUTED_GENES).index)
    predicted = model.impute_masked(genes=genes)
    columns = model.genes.get_indexer(predicted.columns)
    truth = pd.DataFrame(logged[:, columns].toarray(), predicted.index, predicted.columns)
    spots = [sections == name for name in np.unique(sections)]
    within = np.array([predicted[rows].corrwith(truth[rows]) for rows in spots])
    r, _ = fisher_average(within, np.array([[rows.sum()] for rows in spots]))
    return pd.Series(r, index=genes)
