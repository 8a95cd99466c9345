"""What `sagefm demo` does: load, train, embed, cluster, impute, report."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from sagefm import tl
from sagefm._logging import logger
from sagefm.cli._demo_packaged import show_packaged
from sagefm.cli._demo_report import DOMAIN_KEY, report, say, truth_of, write
from sagefm.data import check_graph, neighbor_mean_operator
from sagefm.datasets import simulated_tissue
from sagefm.model import SAGEFM, TOP, fisher_average

WEIGHTS = "human-mini"
DEFAULT_N_DOMAINS = 7
N_COMPONENTS = 20
GRAPH_KEY = "spatial_connectivities"
N_HIDDEN_GENES = 3
MIN_SCORED = 50  # spots that a correlation rests on
ALL_SPOTS = "all"
TRAINED, ZERO_SHOT = "SAGEFM", f"{WEIGHTS}, zero-shot"

SMOOTH_LATENT, SMOOTH_PCA = "SAGEFM latent, neighbourhood mean", "PCA of the smoothed counts"
SMOOTH_ZERO_SHOT = f"{ZERO_SHOT}, neighbourhood mean"
# What each is clustered by, and how often that is smoothed.
CLUSTERED_BY = {SMOOTH_LATENT: ("latent", 1), SMOOTH_ZERO_SHOT: ("zero_shot", 1), SMOOTH_PCA: ("smooth_pca", 0)}


def run(
    source: Path | None,
    out: Path,
    *,
    sample_key: str | None,
    layer: str | None,
    n_domains: int | None,
    max_epochs: int | None,
    seed: int,
    console: Console,
) -> None:
    """Run the demo on the file `source`, or on a simulated tissue, and write to the directory `out`."""
    out = out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    with _quiet():
        adata = _load(source, seed, console)
        with _aloud(console):
            SAGEFM.setup_anndata(adata, layer=layer, sample_key=sample_key)
            n_domains = _number_of_domains(adata, n_domains)
            model = _train(adata, max_epochs, seed, console)
            pretrained = None if source is None else _pretrained(adata, layer, sample_key, console)
        logged = _log_normalized(adata, layer, model.target_depth)
        representations = {"latent": model.get_latent_representation(), "smooth_pca": _smooth_pca(adata, logged)}
        recoveries = _recoveries(model, seed)
        recovery = recoveries[ALL_SPOTS, TRAINED]
        if pretrained is not None:
            representations["zero_shot"] = pretrained.get_latent_representation()
            recoveries[ALL_SPOTS, ZERO_SHOT] = pretrained.get_masked_recovery(seed=seed)
        domains = _domains(adata, representations, n_domains, seed)
        scores = _scores(domains, truth_of(adata))
        hidden = _hidden_genes(model, adata, logged, recovery, sample_key)
        report(console, recoveries, hidden, scores, n_domains)
        if source is None:
            with _aloud(console):
                show_packaged(adata, WEIGHTS, seed, console)
        adata.obs[DOMAIN_KEY] = domains[SMOOTH_LATENT]
        write(out, adata, recovery, domains, scores, sample_key, console)


# Load and train -------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice and the warnings of all packages."""
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _aloud(console: Console) -> Iterator[None]:
    """Show what sagefm logs and warns of."""
    logger.handlers, usual = [_Messages(console)], logger.handlers
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module="sagefm")
            warnings.showwarning = lambda message, *_, **__: say(console, f"Warning: {message}", style="yellow")
            yield
    finally:
        logger.handlers = usual


class _Messages(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say(self._console, record.getMessage())


def _load(source: Path | None, seed: int, console: Console) -> AnnData:
    adata = simulated_tissue(seed=seed) if source is None else _read(source)
    name = f"Simulated tissue, seed {seed}" if source is None else source.name
    say(console, f"{name}: {adata.n_obs:,} spots, {adata.n_vars:,} genes.")
    return adata


def _read(source: Path) -> AnnData:
    try:
        return anndata.read_h5ad(source)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:  # anndata raises all of these
        raise OSError(f"{source} cannot be read as an AnnData file (.h5ad): {error}") from error


def _number_of_domains(adata: AnnData, asked: int | None) -> int:
    truth = truth_of(adata)
    n_domains = asked or (DEFAULT_N_DOMAINS if truth is None else truth.nunique())
    if n_domains > adata.n_obs:
        raise ValueError(f"{n_domains} domains cannot be made of {adata.n_obs} spots; pass a lower --n-domains.")
    return n_domains


def _train(adata: AnnData, max_epochs: int | None, seed: int, console: Console) -> SAGEFM:
    scvi.settings.seed = seed
    # A core is left to others: on small batches, threads that wait for a busy core cost more than they bring.
    scvi.settings.num_threads = max(1, torch.get_num_threads() - 1)
    model = SAGEFM(adata)
    start = time.perf_counter()
    model.train(max_epochs=max_epochs, enable_progress_bar=console.is_terminal)
    seconds = time.perf_counter() - start
    say(console, f"Trained {len(model.history['train_loss'])} epochs in {seconds:.0f} s.")
    return model


def _pretrained(adata: AnnData, layer: str | None, sample_key: str | None, console: Console) -> SAGEFM | None:
    """Put the packaged weights on a copy of the section; none where they do not know its genes."""
    try:
        return SAGEFM.from_pretrained(WEIGHTS, adata.copy(), layer=layer, sample_key=sample_key)
    except ValueError as error:
        reason = str(error).split(". ")[0]
        say(console, f"{WEIGHTS}, the weights that come with sagefm, are left out: {reason}.")
        return None


# Embed and cluster ----------------------------------------------------------------------------------------------------


def _log_normalized(adata: AnnData, layer: str | None, depth: float) -> sp.csr_matrix:
    counts = adata.X if layer is None else adata.layers[layer]
    light = AnnData(sp.csr_matrix(counts, dtype=np.float32, copy=True))
    sc.pp.normalize_total(light, target_sum=depth)
    sc.pp.log1p(light)
    return light.X


def _smooth_pca(adata: AnnData, logged: sp.csr_matrix) -> np.ndarray:
    """Return principal components of the mean over each spot and its neighbours, (spots, components)."""
    graph = check_graph(adata.obsp[GRAPH_KEY], None, GRAPH_KEY)
    mean = neighbor_mean_operator(graph, with_self=True)
    n_components = min(N_COMPONENTS, adata.n_obs - 1, adata.n_vars - 1)
    return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(sp.csr_matrix(mean @ logged))


def _domains(
    adata: AnnData, representations: dict[str, np.ndarray], n_domains: int, seed: int
) -> dict[str, pd.Categorical]:
    """Cluster the spots by every representation, all by one protocol, into domains "1", "2" and so on."""
    light = AnnData(obs=adata.obs[[]], obsm=representations, obsp={GRAPH_KEY: adata.obsp[GRAPH_KEY]})
    labels, truth = {}, truth_of(adata)
    for name, (use_rep, smooth) in CLUSTERED_BY.items():
        if use_rep in representations:
            tl.domains(light, n_domains, use_rep=use_rep, smooth=smooth, seed=seed, key_added=name)
            labels[name] = light.obs[name].cat.codes.to_numpy()
    reference = labels[SMOOTH_LATENT] if truth is None else truth.cat.codes.to_numpy()
    names = pd.Index([str(number + 1) for number in range(n_domains)], dtype=object)
    return {
        name: pd.Categorical.from_codes(_renumbered(found, reference, n_domains), categories=names)
        for name, found in labels.items()
    }


def _renumbered(labels: np.ndarray, reference: np.ndarray, n_labels: int) -> np.ndarray:
    """Give labels the numbers of the `reference` labels that they overlap most, so that maps agree in colour.

    A reference of -1 is none.
    """
    known = reference >= 0
    shared = np.zeros((n_labels, max(n_labels, reference.max() + 1)))
    np.add.at(shared, (labels[known], reference[known]), 1)
    _, partner = linear_sum_assignment(shared, maximize=True)
    return np.argsort(np.argsort(partner))[labels]


def _scores(domains: dict[str, pd.Categorical], truth: pd.Series | None) -> dict[str, float]:
    """Return the adjusted Rand indices over the annotated spots; none where there is no truth."""
    if truth is None:
        return {}
    known = truth.notna().to_numpy()
    return {name: float(adjusted_rand_score(truth[known], found.codes[known])) for name, found in domains.items()}


# Impute ---------------------------------------------------------------------------------------------------------------


def _recoveries(model: SAGEFM, seed: int) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the recovery table of all spots, and that of the spots held out, whose counts no training step saw."""
    tables = {}
    unseen = np.sort(np.asarray(model.validation_indices))
    if len(unseen) >= MIN_SCORED:
        tables[f"{len(unseen):,} held out", TRAINED] = model.get_masked_recovery(indices=unseen, seed=seed)
    return tables | {(ALL_SPOTS, TRAINED): model.get_masked_recovery(seed=seed)}


def _hidden_genes(
    model: SAGEFM, adata: AnnData, logged: sp.csr_matrix, recovery: pd.DataFrame, sample_key: str | None
) -> pd.Series:
    """Hide some genes from every spot, and return each one's r with the truth within sections."""
    top = recovery.nlargest(TOP, "mean_expression")
    # Chosen without a look at the model: the genes that follow the tissue most closely.
    genes = list(top["r_neighbors"].dropna().nlargest(N_HIDDEN_GENES).index)
    predicted = model.impute_masked(genes=genes)
    columns = adata.var_names.get_indexer(pd.Index(genes))
    truth = pd.DataFrame(logged[:, columns].toarray(), index=predicted.index, columns=genes)
    section = np.zeros(adata.n_obs) if sample_key is None else adata.obs[sample_key].astype(str).to_numpy()
    spots = [section == name for name in np.unique(section)]
    within = np.array([predicted[rows].corrwith(truth[rows]) for rows in spots])
    r, _ = fisher_average(within, np.array([[rows.sum()] for rows in spots]))
    return pd.Series(r, index=genes)
