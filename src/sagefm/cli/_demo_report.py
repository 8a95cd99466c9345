"""Output of `sagefm demo`: tables of scores, maps and the section itself."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from rich.console import Console

from sagefm import pl
from sagefm.cli._output import heading, print_table, save_figure, say
from sagefm.model import TOP

TRUTH_KEY, DOMAIN_KEY = "annotation", "sagefm_domain"
MAX_MAPPED = 6  # sections in the domain map


def truth_of(adata: AnnData) -> pd.Series | None:
    """Return the annotated domain of every spot, missing if unlabelled; None if there are fewer than two domains."""
    if TRUTH_KEY not in adata.obs:
        return None
    truth = adata.obs[TRUTH_KEY].astype("category").cat.remove_unused_categories()
    return truth if truth.nunique() > 1 else None


def report(
    console: Console,
    recoveries: dict[str, dict[str, pd.DataFrame]],
    imputed: pd.Series,
    scores: dict[str, float],
    n_domains: int,
) -> None:
    """Print the scores of genes masked at random, of genes masked in every spot, and of domains."""
    title = "Masked genes: correlation r of prediction and truth, gene by gene, within sections"
    columns = ["spots", "prediction", f"mean r, top {TOP}", "median r", "q < 0.05"]
    print_table(console, title, columns, _recovery_rows(recoveries))
    title = "Genes masked in every spot: r of prediction and truth"
    print_table(console, title, ["", *imputed.index], [["SAGEFM", *imputed]])
    if scores:
        title = f"{n_domains} domains: adjusted Rand index with obs[{TRUTH_KEY!r}]"
        print_table(console, title, ["clustered by", "ARI"], scores.items())
    else:
        say(console, f"{n_domains} domains; obs[{TRUTH_KEY!r}] has no annotation to compare them with.")


def _recovery_rows(recoveries: dict[str, dict[str, pd.DataFrame]]) -> Iterator[list]:
    """Yield one row per set of spots and model; that of the mean of the neighbours comes first."""
    for spots, by_model in recoveries.items():
        totals = next(iter(by_model.values())).attrs
        yield [spots, "mean of the neighbours", totals[f"top{TOP}_r_neighbors"], totals["median_r_neighbors"], ""]
        for model, totals in ((model, table.attrs) for model, table in by_model.items()):
            yield ["", model, totals[f"top{TOP}_r"], totals["median_r"], f"{totals['share_q05']:.0%}"]


def write(
    out: Path,
    adata: AnnData,
    recovery: pd.DataFrame,
    domains: dict[str, pd.Categorical],
    scores: dict[str, float],
    sections: np.ndarray,
    console: Console,
) -> None:
    """Write the section, a map of every clustering and the recovery of every gene."""
    adata.write_h5ad(out / "section.h5ad")
    save_figure(_domain_map(adata, domains, scores, sections), out / "domains.png")
    save_figure(pl.recovery(recovery), out / "recovery.png")
    heading(console, "Written")
    say(console, f"{out / 'section.h5ad'}: the section with obsm['X_sagefm'] and obs[{DOMAIN_KEY!r}]")
    say(console, f"{out / 'domains.png'}: domains on the tissue")
    say(console, f"{out / 'recovery.png'}: r of each gene, all spots, against that of the mean of the neighbours")


def _domain_map(
    adata: AnnData, domains: dict[str, pd.Categorical], scores: dict[str, float], sections: np.ndarray
) -> Axes:
    truth = truth_of(adata)
    panels = {} if truth is None else {TRUTH_KEY: truth}
    for name, found in domains.items():
        panels[f"{name}\nARI {scores[name]:.2f}" if scores else name] = pd.Series(found, index=adata.obs_names)
    obs = pd.DataFrame(panels).assign(section=sections)
    mapped = AnnData(obs=obs, obsm={"spatial": adata.obsm["spatial"]})
    drawn = np.isin(sections, np.unique(sections)[:MAX_MAPPED])
    return pl.domains(mapped[drawn], list(panels), sample_key="section")[0, 0]
