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
FEW_SPOTS = 100  # held-out spots below which scores come with a caveat
MAX_MAPPED = 6  # sections in the domain map
MAX_NUMBERS = 30  # different whole numbers that can be domains; more are measurements


def truth_of(adata: AnnData, console: Console) -> pd.Series | None:
    """Return the annotated domain of every spot, missing if unlabelled; None if there are fewer than two domains."""
    if TRUTH_KEY not in adata.obs:
        return None
    labels = adata.obs[TRUTH_KEY].astype(object)
    labels = labels.mask(labels == "")
    if not are_categories(labels, MAX_NUMBERS):
        say(
            console,
            f"Expected categories in obs[{TRUTH_KEY!r}]; found {labels.nunique()} different values in "
            f"{labels.count()} spots. Domains are not compared with them.",
        )
        return None
    truth = labels.astype("category")
    return truth if truth.nunique() > 1 else None


def are_categories(values: pd.Series, max_numbers: float = np.inf) -> bool:
    """Whether values, if not missing, are names or at most `max_numbers` whole numbers, and are used repeatedly."""
    known = values.dropna()
    numbers = pd.to_numeric(known.astype(str), errors="coerce")
    if numbers.notna().all() and ((numbers % 1 != 0).any() or known.nunique() > max_numbers):
        return False
    return known.nunique() <= len(known) / 2


def report(
    console: Console,
    recoveries: dict[str, pd.DataFrame],
    imputed: pd.Series,
    scores: dict[str, float],
    n_domains: int,
) -> None:
    """Print the scores of genes masked at random, of genes masked in every spot, and of domains."""
    first = next(iter(recoveries.values()))
    held_out = _held_out(first)
    title = (
        f"{first.attrs['n_genes']:,} genes masked at random in {held_out}: r of prediction and truth within sections"
    )
    columns = ["prediction", f"mean r, top {TOP}", "of ceiling", "median r", "q < 0.05"]
    print_table(console, title, columns, _recovery_rows(recoveries))
    if first.attrs["n_spots"] < FEW_SPOTS:
        say(
            console,
            "In so few spots scores vary by chance. That of the mean of the neighbours is also biased downwards, "
            "because a spot is missing from its own mean.",
        )
    title = f"Genes masked in every spot: r of prediction and truth in {held_out}"
    print_table(console, title, ["", *imputed.index], [["SAGEFM", *imputed]])
    if scores:
        title = f"{n_domains} domains: adjusted Rand index with obs[{TRUTH_KEY!r}]"
        print_table(console, title, ["clustered by", "ARI"], scores.items())
    else:
        say(console, f"{n_domains} domains; obs[{TRUTH_KEY!r}] has no categories to compare them with.")


def _held_out(recovery: pd.DataFrame) -> str:
    return f"{recovery.attrs['n_spots']:,} held-out spots"


def _recovery_rows(recoveries: dict[str, pd.DataFrame]) -> Iterator[list]:
    """Yield the row of the mean of the neighbours, one row per model, and that of the noise ceiling."""
    first = next(iter(recoveries.values())).attrs
    r_neighbors, r_max = first[f"top{TOP}_r_neighbors"], first[f"top{TOP}_r_max"]
    name = "mean of the neighbours"
    yield [name, r_neighbors, _percent(r_neighbors / r_max), first["median_r_neighbors"], ""]
    for model, totals in ((model, table.attrs) for model, table in recoveries.items()):
        share, significant = (_percent(totals[key]) for key in (f"top{TOP}_share_of_ceiling", "share_q05"))
        yield [model, totals[f"top{TOP}_r"], share, totals["median_r"], significant]
    if np.isfinite(r_max):
        yield ["noise ceiling", r_max, _percent(1), "", ""]


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else ""


def write(
    out: Path,
    adata: AnnData,
    recovery: pd.DataFrame,
    domains: dict[str, pd.Categorical],
    scores: dict[str, float],
    truth: pd.Series | None,
    sections: np.ndarray,
    console: Console,
) -> None:
    """Write the section, a map of every clustering if there are coordinates, and the recovery of every gene."""
    heading(console, "Written")
    adata.write_h5ad(out / "section.h5ad")
    say(console, f"{out / 'section.h5ad'}: the section with obsm['X_sagefm'] and obs[{DOMAIN_KEY!r}]")
    if "spatial" in adata.obsm:
        save_figure(_domain_map(adata, domains, scores, truth, sections), out / "domains.png")
        say(console, f"{out / 'domains.png'}: domains on the tissue")
    else:
        say(console, "No map of the domains, because there are no coordinates in obsm['spatial']")
    ax, held_out = pl.recovery(recovery), _held_out(recovery)
    ax.set_title(f"{held_out}: {ax.get_title()}")
    save_figure(ax, out / "recovery.png")
    say(console, f"{out / 'recovery.png'}: r of each gene in {held_out}, against that of the mean of the neighbours")


def _domain_map(
    adata: AnnData,
    domains: dict[str, pd.Categorical],
    scores: dict[str, float],
    truth: pd.Series | None,
    sections: np.ndarray,
) -> Axes:
    panels = {} if truth is None else {TRUTH_KEY: truth}
    for name, found in domains.items():
        panels[f"{name}\nARI {scores[name]:.2f}" if scores else name] = pd.Series(found, index=adata.obs_names)
    obs = pd.DataFrame(panels).assign(section=sections)
    mapped = AnnData(obs=obs, obsm={"spatial": adata.obsm["spatial"]})
    drawn = np.isin(sections, np.unique(sections)[:MAX_MAPPED])
    return pl.domains(mapped[drawn], list(panels), sample_key="section")[0, 0]
