"""What `sagefm demo` shows and writes: tables of scores, maps and the section itself."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from sagefm import pl
from sagefm.model import TOP

TRUTH_KEY, DOMAIN_KEY = "annotation", "sagefm_domain"
MAX_MAPPED = 6  # sections in the domain map
SECTION = "section"


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line."""
    # Not wrapped: a path that is broken over two lines cannot be copied, nor a line found with grep.
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def truth_of(adata: AnnData) -> pd.Series | None:
    """Return the annotated domain of every spot, missing where unlabelled; None where there are not two of them."""
    if TRUTH_KEY not in adata.obs:
        return None
    truth = adata.obs[TRUTH_KEY].astype("category").cat.remove_unused_categories()
    return truth if truth.nunique() > 1 else None


def report(
    console: Console,
    recoveries: dict[tuple[str, str], pd.DataFrame],
    hidden: pd.Series,
    scores: dict[str, float],
    n_domains: int,
) -> None:
    """Print the scores of masked genes, of genes hidden as a whole, and of domains."""
    heading(console, "Masked genes: correlation r of prediction and truth, gene by gene, within sections")
    console.print(_recovery_table(recoveries))
    heading(console, "Genes hidden from every spot: r of prediction and truth")
    console.print(_hidden_table(hidden))
    if scores:
        heading(console, f"{n_domains} domains: adjusted Rand index with obs[{TRUTH_KEY!r}]")
        console.print(_domain_table(scores))
    else:
        say(console, f"{n_domains} domains; obs[{TRUTH_KEY!r}] has none to compare them with.")


def heading(console: Console, text: str) -> None:
    """Print a line above a part."""
    say(console, f"\n{text}", style="bold")


def _recovery_table(recoveries: dict[tuple[str, str], pd.DataFrame]) -> Table:
    """Make one row a set of spots and model, the mean of the neighbours below each set of spots."""
    table = _table("spots", "prediction", f"mean r, top {TOP}", "median r", "q < 0.05")
    shown = ""
    for (spots, model), recovery in recoveries.items():
        totals = recovery.attrs
        if spots != shown:
            neighbors = _r(totals[f"top{TOP}_r_neighbors"], totals["median_r_neighbors"])
            table.add_section()
            table.add_row(spots, "mean of the neighbours", *neighbors)
        r = _r(totals[f"top{TOP}_r"], totals["median_r"])
        table.add_row("", model, *r, f"{totals['share_q05']:.0%}")
        shown = spots
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


def write(
    out: Path,
    adata: AnnData,
    recovery: pd.DataFrame,
    domains: dict[str, pd.Categorical],
    scores: dict[str, float],
    sample_key: str | None,
    console: Console,
) -> None:
    """Write the section, a map of every clustering and the recovery of every gene."""
    adata.write_h5ad(out / "section.h5ad")
    _save(_domain_map(adata, domains, scores, sample_key), out / "domains.png")
    _save(pl.recovery(recovery), out / "recovery.png")
    heading(console, "Written")
    for name, what in (
        ("section.h5ad", f"the section with obsm['X_sagefm'] and obs[{DOMAIN_KEY!r}]"),
        ("domains.png", "domains on the tissue"),
        ("recovery.png", "each gene's r, all spots, against that of the mean of the neighbours"),
    ):
        say(console, f"{out / name}: {what}")


def _domain_map(
    adata: AnnData, domains: dict[str, pd.Categorical], scores: dict[str, float], sample_key: str | None
) -> Axes:
    truth = truth_of(adata)
    panels = {} if truth is None else {TRUTH_KEY: truth}
    for name, found in domains.items():
        panels[f"{name}\nARI {scores[name]:.2f}" if scores else name] = pd.Series(found, index=adata.obs_names)
    keys = list(panels)
    sections = pd.Series("", index=adata.obs_names) if sample_key is None else adata.obs[sample_key].astype(str)
    mapped = AnnData(obs=pd.DataFrame({**panels, SECTION: sections}), obsm={"spatial": adata.obsm["spatial"]})
    first = np.unique(sections)[:MAX_MAPPED]
    return pl.domains(mapped[sections.isin(first).to_numpy()], keys, sample_key=SECTION)[0, 0]


def _save(ax: Axes, path: Path) -> None:
    figure = cast(Figure, ax.figure)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
