"""`sagefm demo`: load or simulate a section, train, embed, cluster, impute, report."""

import time
from functools import reduce
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
from sagefm.cli._demo_report import DOMAIN_KEY, are_categories, report, truth_of, write
from sagefm.cli._output import messages, quiet, say
from sagefm.data import SetupKeys, gene_names, log_scaled, neighbor_mean_operator, reading
from sagefm.datasets import simulated_tissue
from sagefm.model import SAGEFM, TOP, fisher_average, recovery_totals
from sagefm.weights import best_packaged_weights

WEIGHTS = "human-mini"
DEFAULT_N_DOMAINS = 7
N_COMPONENTS = 20
N_IMPUTED_GENES = 3
N_MASKS = 3  # that do not overlap: nine entries in ten are scored, as held-out spots may be few
TRAINED = "SAGEFM"
SMOOTHED = "{}, neighbourhood mean"
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
        _check_sections(adata, keys["sample_key"])
        truth = truth_of(adata, console)
        with messages(console):
            SAGEFM.setup_anndata(adata, **keys)
            n_domains = _number_of_domains(adata, truth, n_domains)
            models = {TRAINED: _train(adata, max_epochs, seed, console)}
            if source is not None:
                models = _pretrained(adata, keys, console) | models
        logged = _log_normalized(adata, keys["layer"], models[TRAINED].target_depth)
        held_out = np.sort(models[TRAINED].validation_indices)
        recoveries = _recoveries(models, held_out, seed)
        sections, graph = SetupKeys(**keys).sections(adata), SetupKeys(**keys).graph(adata)
        representations = {SMOOTHED.format(name): model.get_latent_representation() for name, model in models.items()}
        representations[SMOOTHED_PCA] = _smoothed_pca(logged, graph)
        domains = _domains(representations, graph, truth, n_domains, seed)
        scores = {} if truth is None else {name: _score(found, truth) for name, found in domains.items()}
        imputed = _imputed_genes(models[TRAINED], logged, graph, sections, held_out)
        report(console, recoveries, imputed, scores, n_domains)
        if source is None:
            with messages(console):
                show_packaged(adata, WEIGHTS, seed, console)
        adata.obs[DOMAIN_KEY] = domains[SMOOTHED.format(TRAINED)]
        write(out, adata, recoveries[TRAINED], domains, scores, truth, sections, console)


# Load and train -------------------------------------------------------------------------------------------------------


def _load(source: Path | None, seed: int, console: Console) -> AnnData:
    if source is None:
        adata, name = simulated_tissue(seed=seed), f"Simulated tissue, seed {seed}"
    else:
        with reading(source):
            adata, name = anndata.read_h5ad(source), source.name
    say(console, f"{name}: {adata.n_obs:,} spots, {adata.n_vars:,} genes.")
    return adata


def _check_sections(adata: AnnData, sample_key: str | None) -> None:
    if sample_key in adata.obs and not are_categories(adata.obs[sample_key]):
        raise ValueError(
            f"Expected obs[{sample_key!r}] to name the section of each spot; found {adata.obs[sample_key].nunique()} "
            f"different values in {adata.n_obs} spots. Pass another column as --sample-key, or none for one section."
        )


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
    """Set up the packaged weights of the species with a copy of the section; empty if they do not know its genes."""
    weights, _ = best_packaged_weights(gene_names(adata, keys.get("gene_symbols")))
    try:
        return {f"{weights}, zero-shot": SAGEFM.from_pretrained(weights, adata.copy(), **keys)}
    except ValueError as error:
        reason = str(error).split(". ")[0]
        say(console, f"{weights}, the weights that come with sagefm, are left out: {reason}.")
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


def _recoveries(models: dict[str, SAGEFM], held_out: np.ndarray, seed: int) -> dict[str, pd.DataFrame]:
    """Return the recovery by each model of the genes that all of them know, in the held-out spots."""
    tables = {
        name: model.get_masked_recovery(indices=held_out, n_masks=N_MASKS, seed=seed) for name, model in models.items()
    }
    genes = reduce(lambda known, others: known[known.isin(others)], (table.index for table in tables.values()))
    for name, table in tables.items():
        tables[name] = table.loc[genes]
        tables[name].attrs.update(recovery_totals(tables[name]))
    return tables


def _imputed_genes(
    model: SAGEFM, logged: sp.csr_matrix, graph: sp.csr_matrix, sections: np.ndarray, held_out: np.ndarray
) -> pd.Series:
    """Mask some genes in every spot, and return the correlation of each with the truth in the held-out spots."""
    others = np.setdiff1d(np.arange(len(sections)), held_out)
    columns = _smoothest(logged, graph, sections, others)
    predicted = model.impute_masked(genes=list(model.genes[columns]), indices=held_out).to_numpy()
    r = _r_within(predicted, logged[held_out][:, columns].toarray(), sections[held_out])
    return pd.Series(r, index=model.genes[columns])


def _smoothest(logged: sp.csr_matrix, graph: sp.csr_matrix, sections: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the expressed genes that their means over the neighbours follow most closely in these rows."""
    top = np.argsort(-np.asarray(logged.mean(axis=0)).ravel(), kind="stable")[:TOP]
    means = neighbor_mean_operator(graph, with_self=False)[rows] @ logged[:, top]
    r = _r_within(means.toarray(), logged[rows][:, top].toarray(), sections[rows])
    return top[pd.Series(r).nlargest(N_IMPUTED_GENES).index]


def _r_within(predicted: np.ndarray, truth: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Return the correlation of each column, both (spots, genes), within sections."""
    spots = [sections == name for name in np.unique(sections)]
    r = np.array([pd.DataFrame(predicted[rows]).corrwith(pd.DataFrame(truth[rows])) for rows in spots])
    return fisher_average(r, np.array([[rows.sum()] for rows in spots]))[0]
