"""The tables and the figure of docs/perturbation.md from the scores of `ground_truth.py`."""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import bootstrap

METHODS = {
    "pretrained": "**pre-trained weights**",
    "scratch": "trained on the section alone",
    "published": "published architecture",
    "random": "random weights",
    "section": "correlation in the section",
    "pooled": "correlation over the pre-training sections, within sections",
    "pooled_across": "correlation over the pre-training sections, across all spots",
}
DIFFERENCE = "pre-trained minus {}"
NETS = {
    "progeny": "PROGENy",
    "progeny_signed": "PROGENy, both signs",
    "collectri": "CollecTRI",
    "liana": "LIANA",
    "cellchat": "CellChat ligands",
}
PLACES = {"self": "in the spot", "neighbors": "in its neighbours"}
KINDS = {False: "outside", True: "inside"}
COLORS = {
    "pretrained": "#0072B2",
    "scratch": "#56B4E9",
    "published": "#009E73",
    "random": "#999999",
    "section": "#E69F00",
    "pooled": "#D55E00",
    "pooled_across": "#CC79A7",
}
plt.rcParams["svg.hashsalt"] = "sagefm"  # the same figure gives the same file


def write_report(results: Path, document: Path) -> None:
    """Replace the tables of the document and draw its figure."""
    scores, text = pd.read_csv(results), document.read_text()
    for in_corpus, kind in KINDS.items():
        part = scores[scores["in_corpus"] == in_corpus]
        for where in PLACES:
            text = _with_table(text, f"ground truth {kind} {where}", by_method(part[part["where"] == where]))
    text = _with_table(text, "ground truth signs", signs(scores[~scores["in_corpus"] & (scores["where"] == "self")]))
    own = scores[(scores["where"] == "self") & (scores["net"] == "progeny")]
    text = _with_table(text, "ground truth sections", by_section(own))
    document.write_text(text)
    draw(scores, document.parent / "figures" / "perturbation_ground_truth.svg")


def by_source(scores: pd.DataFrame, column: str = "auroc") -> pd.DataFrame:
    """Return means over sections, one row per net and source, one column per method."""
    return scores.pivot_table(index=["net", "source"], columns="method", values=column)


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Return the mean over sources and its 95 % interval by bootstrap over sources."""
    low, high = bootstrap(
        (values.to_numpy(),), np.mean, n_resamples=2000, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(values.mean()), float(low), float(high)


def _cell(values: pd.Series, sign: str = "") -> str:
    return "{:{sign}.2f} [{:{sign}.2f}, {:{sign}.2f}]".format(*interval(values), sign=sign)


def by_net(scores: pd.DataFrame, column: str = "auroc") -> dict[str, pd.DataFrame]:
    """Return for each net means over sections, one row per source, one column per method that was measured."""
    means = by_source(scores, column)
    return {net: means.loc[net].dropna(axis=1, how="all") for net in NETS if net in means.index}


def by_method(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, one column per net: AUROC, mean over sources."""
    columns = {}
    for net, of_net in by_net(scores).items():
        label = NETS[net]
        cells = {METHODS[name]: _cell(of_net[name].dropna()) for name in METHODS if name in of_net}
        for name in ("pooled", "pooled_across"):
            if name in of_net:
                cells[DIFFERENCE.format(METHODS[name])] = _cell((of_net["pretrained"] - of_net[name]).dropna(), "+")
        columns[f"{label} ({len(of_net)} sources)"] = pd.Series(cells)
    return _ordered(columns)


def signs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the share of targets, and of matched genes, whose effect has the expected sign."""
    found, controls = by_net(scores, "sign_agreement"), by_net(scores, "control_sign_agreement")
    columns = {
        NETS[net]: pd.Series(
            {
                METHODS[name]: f"{own[name].mean():.0%} ({controls[net][name].mean():.0%})"
                for name in METHODS
                if name in own
            }
        )
        for net, own in found.items()
    }
    return _ordered(columns)


def _ordered(columns: dict[str, pd.Series]) -> pd.DataFrame:
    table = pd.DataFrame(columns).fillna("").rename_axis("")
    order = [*METHODS.values(), *map(DIFFERENCE.format, METHODS.values())]
    return table.reindex([name for name in order if name in table.index]).reset_index()


def by_section(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean AUROC over the pathways, one row per section."""
    table = scores.pivot_table(index="section", columns="method", values="auroc", sort=False)
    table = (
        table[[name for name in METHODS if name in table]]
        .map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
        .rename(columns=METHODS)
    )
    inside = scores.groupby("section")["in_corpus"].first()
    table.insert(0, "pre-training corpus", [KINDS[bool(inside[name])] for name in table.index])
    return table.reset_index()


def draw(scores: pd.DataFrame, path: Path) -> None:
    """Plot the mean over sources with its interval: a panel for each place, sections outside the corpus."""
    outside = scores[~scores["in_corpus"]]
    figure, axes = plt.subplots(1, len(PLACES), figsize=(9, 4.2), sharey=True, layout="constrained")
    for ax, (where, label) in zip(axes, PLACES.items(), strict=True):
        _draw_place(ax, by_net(outside[outside["where"] == where]))
        ax.set_title(f"regulator set {label}")
    axes[0].set_ylabel("AUROC, mean over sources")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _draw_place(ax: Axes, means: dict[str, pd.DataFrame]) -> None:
    for number, method in enumerate(METHODS):
        found = {
            place: interval(table[method].dropna()) for place, table in enumerate(means.values()) if method in table
        }
        if found:
            mean, low, high = np.array(list(found.values())).T
            x, error = np.array(list(found)) + 0.12 * (number - 2.5), [mean - low, high - mean]
            ax.errorbar(x, mean, error, fmt="o", markersize=4, color=COLORS[method], label=METHODS[method].strip("*"))
    ax.axhline(0.5, color="0.5", linewidth=0.8)
    ax.set_xticks(range(len(means)), [NETS[net].replace(", ", ",\n").replace(" l", "\nl") for net in means])


def _with_table(text: str, name: str, table: pd.DataFrame) -> str:
    """Insert a table between its markers in the text, in a box that the reader unfolds."""
    place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", flags=re.S)
    if not place.search(text):
        sys.exit(f"The document has no place for the table {name!r}.")
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    rows = ["| " + " | ".join(line) + " |" for line in lines] if len(table) else ["Not measured yet."]
    drawn = "\n".join([":::{dropdown} Table", "", *rows, ":::"])
    return place.sub(lambda found: f"{found[1]}{drawn}\n{found[2]}", text)
