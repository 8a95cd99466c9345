"""Write the tables and figures of docs/benchmarks.md from the CSV files: report.py [RESULTS] [DOCUMENT].

Each table is between the markers `<!-- begin NAME -->` and `<!-- end NAME -->`; only the text between them is replaced.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _differences import (
    CELLS,
    CORTEX,
    DEFAULT,
    GROUPS,
    OTHERS,
    SECTIONS,
    by_group,
    by_section,
    paired,
    sections_higher,
)
from _protocol import HERE, METHODS, PROTOCOL
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = ("sagefm", "sagefm_pretrained", "sagefm_finetuned")
LABELS = {name: entry["label"] for name, entry in METHODS.items()}
ROWS = {
    "majority": "Commonest tissue",
    "neighbors": "Mean of the neighbours",
    "regression": "Ridge regression on components",
    "section_regression": "The same, of the section itself",
    **LABELS,
    **{f"{name}_alone": f"{LABELS[name]}, not fitted" for name in OURS},
    "ceiling": "Noise ceiling",
}
BOLD = {name: f"**{ROWS[name]}**" for name in OURS}
# Columns of the table of single sections: how the method is clustered, and which method.
SHOWN = {
    "sagefm": (DEFAULT, "sagefm"),
    "PCA": (DEFAULT, "pca"),
    "sagefm, averaged": ("1", "sagefm"),
    "PCA of the smoothed counts, as given": ("0", "smoothed_pca"),
    "BANKSY, lambda 0.2, averaged": ("1", "banksy"),
    "CellCharter, averaged": ("1", "cellcharter"),
    "MOFA with a neighbour view, averaged": ("1", "mofa_neighbors"),
}
ANNOTATED = {
    "breast": "breast cancer, six patients",
    "cortex": "cortex, two sections",
    "heart": "developing heart, six sections",
}
RECOVERED = {"breast": "breast cancer, another patient", "cortex": "cortex, the next section"}
plt.rcParams["svg.hashsalt"] = "sagefm"  # the same figure gives the same file


def main(results: Path, document: Path) -> None:
    """Replace all tables and draw the figures of the document; a task without a CSV file gets no table."""
    text = document.read_text()
    for name, (task, make) in TABLES.items():
        scores = results / f"{task}.csv"
        text = with_table(text, name, markdown(make(read(scores))) if scores.exists() else "Not measured yet.")
    document.write_text(text)
    for task, draw in FIGURES.items():
        if (results / f"{task}.csv").exists():
            draw(read(results / f"{task}.csv"), document.parent / "figures" / f"benchmarks_{task}.svg")


def read(path: Path) -> pd.DataFrame:
    """Return the scores of a task; in those of domains, `smooth` is text."""
    return pd.read_csv(path, dtype={"smooth": str})


def with_table(text: str, name: str, table: str) -> str:
    """Insert a table between its markers in the text."""
    place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", flags=re.S)
    if not place.search(text):
        sys.exit(f"The document has no place for the table {name!r}.")
    return place.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


# Tables ---------------------------------------------------------------------------------------------------------------


def differences(scores: pd.DataFrame, smooth: str) -> pd.DataFrame:
    """Return one row per method: by how much the ARI of sagefm is higher, as a mean over sections with its interval."""
    found = paired(scores, smooth)
    table = pd.DataFrame({group: pd.Series(row).map(str) for group, row in by_group(found).items()})
    table.insert(1, "sagefm higher in", sections_higher(found))
    return labelled(table, pd.Series(dtype=object))


def domains(scores: pd.DataFrame, sections: list[str]) -> pd.DataFrame:
    """Return one row per method: mean scores over sections, and their spread over seeds."""
    scores = scores[scores["dataset"].isin(sections)]

    def column(smooth: str, clustering: str, metric: str = "ARI") -> pd.Series:
        kept = scores["smooth"].eq(smooth) & scores["clustering"].isin([clustering, "its own"])
        return _seeds(scores[kept], metric, len(sections))

    table = pd.DataFrame(
        {
            "ARI": column(DEFAULT, "gmm"),
            "of subsamples": column(DEFAULT, "gmm_subsample"),
            "averaged": column("1", "gmm"),
            "of subsamples ": column("1", "gmm_subsample"),
            "by Leiden": column("1", "leiden"),
            "as given": column("0", "gmm"),
            "NMI": column(DEFAULT, "gmm", "NMI"),
        }
    )
    return labelled(table, notes(scores))


def _seeds(rows: pd.DataFrame, metric: str, n_sections: int) -> pd.Series:
    """Return the mean over sections and the mean of their standard deviations over seeds, as text."""
    by_seed = rows[rows["metric"] == metric].groupby(["method", "dataset", "seed", "cluster_seed"])["value"].mean()
    spread = by_seed.groupby(["method", "dataset"]).agg(["mean", "std"]).fillna({"std": 0}).groupby("method")
    found = spread.mean().assign(n=spread.size())
    text = {
        name: f"{row['mean']:.2f} ± {row['std']:.2f}"
        + (f" ({row['n']:.0f} of {n_sections})" if row["n"] < n_sections else "")
        for name, row in found.iterrows()
    }
    return pd.Series(text, dtype=object)


def sections(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per section: the ARI of some methods."""
    table = pd.DataFrame({label: by_section(scores, smooth).get(method) for label, (smooth, method) in SHOWN.items()})
    return table.reindex(SECTIONS).map(_two_digits).rename_axis("").reset_index()


def _two_digits(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def cost(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: the cost of embedding one section, also relative to sagefm, and one of cells."""
    runs = scores.drop_duplicates(["dataset", "method", "seed"]).groupby(["dataset", "method"])
    seconds, peak = (runs[name].mean().unstack("dataset") for name in ("cpu_seconds", "peak_mib"))
    seconds = seconds.dropna(subset=CORTEX[0]).sort_values(CORTEX[0])
    spots, cells = seconds[CORTEX[0]], seconds[CELLS[0]]
    table = pd.DataFrame({"spots: processor, s": spots.map("{:.1f}".format)})
    table["peak, MiB"] = peak[CORTEX[0]].reindex(table.index).map("{:,.0f}".format)
    table["relative to sagefm, training included"] = (spots / spots["sagefm"]).map(_ratio)
    table["relative to pretrained"] = (spots / spots["sagefm_pretrained"]).map(_ratio)
    table["cells: processor, s"] = cells.map(lambda value: "" if np.isnan(value) else f"{value:.1f}")
    return table.rename(index=ROWS | BOLD).rename_axis("").reset_index()


def _ratio(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def annotation(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return one row per method: scores of the probe on spots with a determined tissue, for each set of features."""
    rows = scores[scores["dataset"].eq(dataset) & ~scores["labels"].eq("all")]
    spots = rows[rows["average"] == "spots"]

    def column(scale_by: str, with_neighbors: bool) -> pd.Series:
        kept = spots[(spots["scale_by"] == scale_by) & (spots["with_neighbors"] == with_neighbors)]
        return wide(kept, ["accuracy", "balanced_accuracy", "macro_f1"]).agg(" / ".join, axis=1)

    table = pd.DataFrame(
        {
            "the spot": column("nothing", with_neighbors=False),
            "the spot, scaled": column("sample", with_neighbors=False),
            "with its neighbours": column("nothing", with_neighbors=True),
            "with its neighbours, scaled": column("sample", with_neighbors=True),
        }
    )
    table.loc["majority", "the spot"] = wide(spots, ["majority_accuracy"]).iloc[0, 0]
    return labelled(table.join(costs(rows), how="outer"), notes(rows))


def regions(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: scores on pooled regions."""
    kept = scores[scores["statistics"].eq("mean") & scores["scale_by"].eq("sample")]
    table = wide(kept, ["accuracy", "balanced_accuracy", "macro_f1"])
    table.loc["majority", "accuracy"] = wide(kept, ["majority_accuracy"]).iloc[0, 0]
    table.columns = ["accuracy", "balanced accuracy", "macro-F1"]
    return labelled(table, notes(scores))


def mixing(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return one row per method: summary scores of scib-metrics, with features scaled within sections."""
    kept = scores[scores["dataset"].eq(dataset) & scores["scale_by"].eq("sample")]
    return labelled(wide(kept, ["Batch correction", "Bio conservation", "Total"]), notes(scores))


def recovery(scores: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return one row per method: recovery of masked genes in the held-out sections, with the noise ceiling."""
    scores = scores[scores["dataset"] == split]
    means = scores.groupby(["method", "metric"])["value"].mean().unstack()
    ceiling = means["top500_r_max"].mean()  # nearly the same for all: of the 500 most expressed genes of each
    table = wide(scores, ["top500_r", "median_r"])
    table.columns = ["r, 500 most expressed", "median r, all genes"]
    share = (means["top500_r"] / means["top500_r_max"].fillna(ceiling)).map(_percent)
    table.insert(1, "share of the ceiling", share)
    table["share of the 500, q < 0.05"] = means["top500_share_q05"].map(_percent)
    table.loc["ceiling", "r, 500 most expressed"] = f"{ceiling:.2f}"
    return labelled(table.join(costs(scores)), notes(scores))


def missing(scores: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return one row per method: correlation of genes that are masked in all spots, in the held-out sections."""
    scores = scores[scores["dataset"] == split]
    table = wide(scores, ["mean_r", "median_r", "share_above_02"])
    table.columns = ["mean r", "median r", "share of genes r > 0.2"]
    return labelled(table.join(costs(scores)), notes(scores))


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.0%}"


def wide(scores: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return a table of methods by metrics: means over seeds, as text."""
    means = scores.groupby(["method", "metric"])["value"].mean().unstack()
    return means.reindex(columns=metrics).map(_two_digits)


def costs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the processor time of each method, as a mean over the data sets and seeds of the table."""
    runs = scores.drop_duplicates(["dataset", "method", "seed"]).groupby("method")
    seconds = runs["cpu_seconds"].mean().map(lambda value: "" if np.isnan(value) else f"{value:.0f}")
    return seconds.rename("processor, s").to_frame()


def notes(scores: pd.DataFrame) -> pd.Series:
    """Return, for each method without scores, the reason."""
    empty = scores[scores["metric"].isna()]
    return empty.groupby("method")["note"].first().map(lambda note: note.split(". ")[0])  # the first sentence


def labelled(table: pd.DataFrame, why: pd.Series) -> pd.DataFrame:
    """Order and label the rows, and keep the reasons why values are missing for the text below the table."""
    table = table.reindex([name for name in ROWS if name in table.index or name in why.index])
    table = table.fillna("").rename(index=ROWS | BOLD).rename_axis("").reset_index()
    table.attrs["notes"] = [f"{ROWS[name]}: {reason}" for name, reason in why.items()]
    return table


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, followed by its notes, in a box that the reader unfolds."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    if reasons := table.attrs.get("notes"):
        rows += ["", "No result on some or all sections:", "", *(f"- {reason}" for reason in reasons)]
    return "\n".join([":::{dropdown} Table", "", *rows, ":::"])


def ablations(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per variant of the default network: its scores on both data sets."""
    column = _column(scores)
    return _variants(
        scores,
        {
            "r, breast": column("breast", "top500_r", "{:.3f}"),
            "fitted": column("breast", "fitted_top500_r", "{:.3f}"),
            "r, cortex": column("cortex", "top500_r", "{:.3f}"),
            "fitted ": column("cortex", "fitted_top500_r", "{:.3f}"),
            "ARI, cortex": column("cortex", "ARI", "{:.2f}"),
        },
    )


def ablations_cost(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per variant of the default network: its size, and the length of its training."""
    column = _column(scores)
    return _variants(
        scores,
        {
            "parameters": column("breast", "parameters", "{:,.0f}"),
            "epochs": column("breast", "epochs", "{:.0f}"),
            "processor, s": column("breast", "cpu_seconds", "{:.0f}"),
        },
    )


def _column(scores: pd.DataFrame) -> Callable[[str, str, str], pd.Series]:
    values = scores.groupby(["method", "dataset", "metric"])["value"].mean()
    return lambda dataset, metric, form: values.xs((dataset, metric), level=("dataset", "metric")).map(form.format)


def _variants(scores: pd.DataFrame, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Return columns as a table of variants, in the order of the protocol."""
    table, names = pd.DataFrame(columns), scores.drop_duplicates("method").set_index("method")["label"]
    table = table.reindex([name for name in PROTOCOL["ablations"]["variants"] if name in table.index])
    return table.fillna("").rename(index=names).rename_axis("").reset_index()


TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "differences": ("domains", lambda scores: differences(scores, DEFAULT)),
    "differences_averaged": ("domains", lambda scores: differences(scores, "1")),
    "differences_given": ("domains", lambda scores: differences(scores, "0")),
    "domains_cortex": ("domains", lambda scores: domains(scores, CORTEX)),
    "domains_others": ("domains", lambda scores: domains(scores, OTHERS)),
    "domains_cells": ("domains", lambda scores: domains(scores, CELLS)),
    "domains_sections": ("domains", sections),
    "cost": ("domains", cost),
    "annotation_breast": ("annotation", lambda scores: annotation(scores, "breast")),
    "annotation_cortex": ("annotation", lambda scores: annotation(scores, "cortex")),
    "annotation_heart": ("annotation", lambda scores: annotation(scores, "heart")),
    "regions": ("regions", regions),
    "mixing_breast": ("mixing", lambda scores: mixing(scores, "breast")),
    "mixing_cortex": ("mixing", lambda scores: mixing(scores, "cortex")),
    "recovery_breast": ("recovery", lambda scores: recovery(scores, "breast")),
    "recovery_cortex": ("recovery", lambda scores: recovery(scores, "cortex")),
    "missing_breast": ("missing_genes", lambda scores: missing(scores, "breast")),
    "missing_cortex": ("missing_genes", lambda scores: missing(scores, "cortex")),
    "ablations": ("ablations", ablations),
    "ablations_cost": ("ablations", ablations_cost),
}


# Figures --------------------------------------------------------------------------------------------------------------


FEATURES = {  # scaled within sections, with the mean over the neighbours: look, label
    (False, False): ("#56B4E9", "o", "the spot"),
    (True, False): ("#56B4E9", "D", "the spot, scaled"),
    (False, True): ("#0072B2", "o", "with its neighbours"),
    (True, True): ("#0072B2", "D", "with its neighbours, scaled"),
}


def draw_annotation(scores: pd.DataFrame, path: Path) -> None:
    """Plot the balanced accuracy of each method, one panel per data set, one mark per set of features."""
    kept = scores.query("labels != 'all' and average == 'spots' and metric == 'balanced_accuracy'")
    means = kept.groupby(["dataset", kept["scale_by"] == "sample", "with_neighbors", "method"])["value"].mean()
    figure, panels = _dot_panels([name for name in ROWS if name in means.index.unique("method")], ANNOTATED)
    for panel, dataset in zip(panels, ANNOTATED, strict=True):
        for features, (color, marker, label) in FEATURES.items():
            values = means[dataset][features]
            panel.plot(values, values.index.map(ROWS), marker, color=color, markersize=5, label=label)
    _legend(figure, panels[0], "balanced accuracy", n_columns=4)
    _save(figure, path)


def draw_recovery(scores: pd.DataFrame, path: Path) -> None:
    """Plot the recovery of masked genes by each method, one panel per data set, with the noise ceiling."""
    means = scores.groupby(["dataset", "metric", "method"])["value"].mean()
    figure, panels = _dot_panels([name for name in ROWS if name in means.index.unique("method")], RECOVERED)
    for panel, dataset in zip(panels, RECOVERED, strict=True):
        values = means[dataset]["top500_r"]
        panel.plot(values, values.index.map(ROWS), "o", color="#0072B2", label="mean r, 500 most expressed genes")
        panel.axvline(means[dataset]["top500_r_max"].mean(), color="#D55E00", linestyle="--", label="noise ceiling")
        panel.axvline(0, color="0.3", linewidth=0.8)
    _legend(figure, panels[0], "correlation of predicted and measured expression", n_columns=2)
    _save(figure, path)


def _dot_panels(methods: list[str], titles: dict[str, str]) -> tuple[Figure, np.ndarray]:
    """Return panels that share an axis of methods, in the order of the tables from the top."""
    size = (10, 0.3 * len(methods) + 1.3)
    figure, panels = plt.subplots(1, len(titles), figsize=size, sharey=True, layout="constrained")
    for panel, title in zip(panels, titles.values(), strict=True):
        panel.plot(np.full(len(methods), np.nan), [ROWS[name] for name in methods[::-1]])  # fixes the order
        panel.grid(color="0.5", alpha=0.3)
        panel.set_title(title, fontsize=9)
    return figure, panels


def _legend(figure: Figure, panel: Axes, label: str, n_columns: int) -> None:
    figure.supxlabel(label, fontsize=9)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=n_columns, fontsize=9, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})  # white: text is black on dark pages, too
    plt.close(figure)


def draw_differences(scores: pd.DataFrame, path: Path) -> None:
    """Plot the mean differences between sagefm and each method with their intervals, one panel per group."""
    looks = {
        DEFAULT: ("#009E73", "with the default of tl.domains"),
        "1": ("#0072B2", "averaged over the neighbours once"),
        "0": ("#D55E00", "as given"),
    }
    found = {smooth: by_group(paired(scores, smooth)) for smooth in looks}
    order = [name for name in ROWS if name in found["0"]["all"]][::-1]
    figure, panels = plt.subplots(1, len(GROUPS), figsize=(11, 0.36 * len(order) + 1.3), sharey=True)
    for panel, (group, names) in zip(panels, GROUPS.items(), strict=True):
        for shift, (smooth, (color, label)) in zip((0.25, 0, -0.25), looks.items(), strict=True):
            place = {name: number + shift for number, name in enumerate(order)}
            for name, (mean, low, high, _) in found[smooth][group].items():
                panel.plot([low, high], [place[name]] * 2, color=color, linewidth=1.5)
                face = "white" if np.isnan(low) else color  # too few sections for an interval
                panel.plot(mean, place[name], "o", color=color, markerfacecolor=face, markersize=4, label=label)
                label = None
        panel.axvline(0, color="0.3", linewidth=0.8)
        panel.grid(axis="x", color="0.5", alpha=0.3)
        panel.set_title(f"{group} ({len(names)})", fontsize=9)
    panels[0].set(yticks=range(len(order)), yticklabels=[ROWS[name] for name in order])
    figure.supxlabel("ARI of sagefm minus ARI of the method (right of zero: sagefm is higher)", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, fontsize=9, bbox_to_anchor=(0.5, 1.04), frameon=False)
    figure.tight_layout()
    _save(figure, path)


FIGURES = {"domains": draw_differences, "annotation": draw_annotation, "recovery": draw_recovery}


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *[HERE / "results", HERE.parents[1] / "docs" / "benchmarks.md"][len(given) :])
