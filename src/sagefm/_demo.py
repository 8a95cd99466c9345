"""What `sagefm demo` does: load, train, embed, cluster, impute, report."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from sagefm import pl, tl
from sagefm._graph import check_graph, neighbor_mean_operator
from sagefm._logging import logger
from sagefm._model import SAGEFM
from sagefm._recovery import TOP, fisher_average
from sagefm.datasets import simulated_tissue

TRUTH_KEY, DOMAIN_KEY = "annotation", "sagefm_domain"
DEFAULT_N_DOMAINS = 7
N_COMPONENTS = 20
GRAPH_KEY = "spatial_connectivities"
N_HIDDEN_GENES = 3
MIN_SCORED = 50  # spots that a correlation rests on
MAX_MAPPED = 6  # sections in the domain map
SECTION = "section"
ALL_SPOTS = "all"

SMOOTH_LATENT, SMOOTH_PCA = "SAGEFM latent, neighbourhood mean", "PCA of the smoothed counts"
# What each is clustered by, and how often that is smoothed.
CLUSTERED_BY = {SMOOTH_LATENT: ("latent", 1), SMOOTH_PCA: ("smooth_pca", 0)}


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
    out.mkdir(parents=True, exist_ok=True)
    with _quiet():
        adata = _load(source, seed, console)
        with _aloud(console):
            SAGEFM.setup_anndata(adata, layer=layer, sample_key=sample_key)
            n_domains = _number_of_domains(adata, n_domains)
            model = _train(adata, max_epochs, seed, console)
        latent = model.get_latent_representation()
        logged = _log_normalized(adata, layer, model.target_depth)
        domains = _domains(adata, latent, logged, n_domains, _truth(adata), seed)
        scores = _scores(domains, _truth(adata))
        recoveries = _recoveries(model, adata, seed)
        hidden = _hidden_genes(model, adata, logged, recoveries[ALL_SPOTS], sample_key)
        _report(console, recoveries, hidden, scores, n_domains)
        adata.obs[DOMAIN_KEY] = domains[SMOOTH_LATENT]
        _write(out, adata, recoveries[ALL_SPOTS], domains, scores, sample_key, console)


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
            warnings.showwarning = lambda message, *_, **__: _say(console, f"Warning: {message}", style="yellow")
            yield
    finally:
        logger.handlers = usual


class _Messages(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        _say(self._console, record.getMessage())


def _say(console: Console, text: str, style: str | None = None) -> None:
    # Not wrapped: a path that is broken over two lines cannot be copied, nor a line found with grep.
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _load(source: Path | None, seed: int, console: Console) -> AnnData:
    adata = simulated_tissue(seed=seed) if source is None else _read(source)
    name = f"Simulated tissue, seed {seed}" if source is None else source.name
    _say(console, f"{name}: {adata.n_obs:,} spots, {adata.n_vars:,} genes.")
    return adata


def _read(source: Path) -> AnnData:
    try:
        return anndata.read_h5ad(source)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:  # anndata raises all of these
        raise OSError(f"{source} cannot be read as an AnnData file (.h5ad): {error}") from error


def _number_of_domains(adata: AnnData, asked: int | None) -> int:
    truth = _truth(adata)
    n_domains = asked or (DEFAULT_N_DOMAINS if truth is None else truth.nunique())
    if n_domains > adata.n_obs:
        raise ValueError(f"{n_domains} domains cannot be made of {adata.n_obs} spots; pass a lower --n-domains.")
    return n_domains


def _truth(adata: AnnData) -> pd.Series | None:
    """Return the annotated domain of every spot, missing where unlabelled; None where there are not two of them."""
    if TRUTH_KEY not in adata.obs:
        return None
    truth = adata.obs[TRUTH_KEY].astype("category").cat.remove_unused_categories()
    return truth if truth.nunique() > 1 else None


def _train(adata: AnnData, max_epochs: int | None, seed: int, console: Console) -> SAGEFM:
    scvi.settings.seed = seed
    # A core is left to others: on small batches, threads that wait for a busy core cost more than they bring.
    scvi.settings.num_threads = max(1, torch.get_num_threads() - 1)
    model = SAGEFM(adata)
    start = time.perf_counter()
    model.train(max_epochs=max_epochs, enable_progress_bar=console.is_terminal)
    seconds = time.perf_counter() - start
    _say(console, f"Trained {len(model.history['train_loss'])} epochs in {seconds:.0f} s.")
    return model


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
    mean = neighbor_mean_operator(sp.csr_matrix(graph + sp.eye_array(adata.n_obs)))
    n_components = min(N_COMPONENTS, adata.n_obs - 1, adata.n_vars - 1)
    return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(sp.csr_matrix(mean @ logged))


def _domains(
    adata: AnnData, latent: np.ndarray, logged: sp.csr_matrix, n_domains: int, truth: pd.Series | None, seed: int
) -> dict[str, pd.Categorical]:
    """Cluster the spots by every representation, all by one protocol, into domains "1", "2" and so on."""
    representations = {"latent": latent, "smooth_pca": _smooth_pca(adata, logged)}
    light = AnnData(obs=adata.obs[[]], obsm=representations, obsp={GRAPH_KEY: adata.obsp[GRAPH_KEY]})
    for name, (use_rep, smooth) in CLUSTERED_BY.items():
        tl.domains(light, n_domains, use_rep=use_rep, smooth=smooth, seed=seed, key_added=name)
    labels = {name: light.obs[name].cat.codes.to_numpy() for name in CLUSTERED_BY}
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


def _recoveries(model: SAGEFM, adata: AnnData, seed: int) -> dict[str, pd.DataFrame]:
    """Return the recovery table of all spots, and that of the spots held out, whose counts no training step saw."""
    tables = {ALL_SPOTS: model.get_masked_recovery(seed=seed)}
    unseen = np.sort(np.asarray(model.validation_indices))
    if len(unseen) >= MIN_SCORED:
        tables[f"{len(unseen):,} held out"] = model.get_masked_recovery(indices=unseen, seed=seed)
    return tables


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


# Report ---------------------------------------------------------------------------------------------------------------


def _report(
    console: Console,
    recoveries: dict[str, pd.DataFrame],
    hidden: pd.Series,
    scores: dict[str, float],
    n_domains: int,
) -> None:
    _heading(console, "Masked genes: correlation r of prediction and truth, gene by gene, within sections")
    console.print(_recovery_table(recoveries))
    _heading(console, "Genes hidden from every spot: r of prediction and truth")
    console.print(_hidden_table(hidden))
    if scores:
        _heading(console, f"{n_domains} domains: adjusted Rand index with obs[{TRUTH_KEY!r}]")
        console.print(_domain_table(scores))
    else:
        _say(console, f"{n_domains} domains; obs[{TRUTH_KEY!r}] has none to compare them with.")


def _heading(console: Console, text: str) -> None:
    _say(console, f"\n{text}", style="bold")


def _recovery_table(recoveries: dict[str, pd.DataFrame]) -> Table:
    table = _table("spots", "prediction", f"mean r, top {TOP}", "median r", "q < 0.05")
    for spots, recovery in recoveries.items():
        totals = recovery.attrs
        model = _r(totals[f"top{TOP}_r"], totals["median_r"])
        neighbors = _r(totals[f"top{TOP}_r_neighbors"], totals["median_r_neighbors"])
        table.add_row(spots, "SAGEFM", *model, f"{totals['share_q05']:.0%}")
        table.add_row("", "mean of the neighbours", *neighbors, end_section=True)
    return table


def _hidden_table(hidden: pd.Series) -> Table:
    table = _table("", *hidden.index)
    table.add_row("SAGEFM", *_r(*hidden))
    return table


def _domain_table(scores: dict[str, float]) -> Table:
    table = _table("clustered by", "ARI")
    for name, score in scores.items():
        table.add_row(name, *_r(score))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _r(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


# Write ----------------------------------------------------------------------------------------------------------------


def _write(
    out: Path,
    adata: AnnData,
    recovery: pd.DataFrame,
    domains: dict[str, pd.Categorical],
    scores: dict[str, float],
    sample_key: str | None,
    console: Console,
) -> None:
    adata.write_h5ad(out / "section.h5ad")
    _save(_domain_map(adata, domains, scores, sample_key), out / "domains.png")
    _save(pl.recovery(recovery), out / "recovery.png")
    _heading(console, "Written")
    for name, what in (
        ("section.h5ad", f"the section with obsm['X_sagefm'] and obs[{DOMAIN_KEY!r}]"),
        ("domains.png", "domains on the tissue"),
        ("recovery.png", "each gene's r, all spots, against that of the mean of the neighbours"),
    ):
        _say(console, f"{out / name}: {what}")


def _domain_map(
    adata: AnnData, domains: dict[str, pd.Categorical], scores: dict[str, float], sample_key: str | None
) -> Axes:
    truth = _truth(adata)
    panels = {} if truth is None else {TRUTH_KEY: truth}
    for name in (SMOOTH_LATENT, SMOOTH_PCA):
        panels[f"{name}\nARI {scores[name]:.2f}" if scores else name] = pd.Series(domains[name], index=adata.obs_names)
    keys = list(panels)
    sections = pd.Series("", index=adata.obs_names) if sample_key is None else adata.obs[sample_key].astype(str)
    mapped = AnnData(obs=pd.DataFrame({**panels, SECTION: sections}), obsm={"spatial": adata.obsm["spatial"]})
    first = np.unique(sections)[:MAX_MAPPED]
    return pl.domains(mapped[sections.isin(first).to_numpy()], keys, sample_key=SECTION)[0, 0]


def _save(ax: Axes, path: Path) -> None:
    figure = cast(Figure, ax.figure)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
