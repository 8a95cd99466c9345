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
from _protocol import HERE, METHODS, PROTOCOL

ROWS = {
    "neighbors": "Mean of the neighbours",
    "regression": "Ridge regression on components",
    "section_regression": "The same, of the section itself",
    **{name: entry["label"] for name, entry in METHODS.items()},
}
CORTEX = ["cortex_151673", "cortex_151674"]
OURS = ("sagefm", "sagefm_pretrained", "sagefm_finetuned")
ROWS |= {f"{name}_alone": f"{ROWS[name]}, network alone" for name in OURS}
BOLD = {name: f"**{ROWS[name]}**" for name in OURS}
plt.rcParams["svg.hashsalt"] = "sagefm"  # the same figure gives the same file


def main(results: Path, document: Path) -> None:
    """Replace all tables and draw the figures of the document; a task without a CSV file gets no table."""
    text = document.read_text()
    for name, (task, make) in TABLES.items():
        scores = results / f"{task}.csv"
        text = with_table(text, name, markdown(make(pd.read_csv(scores))) if scores.exists() else "Not measured yet.")
    document.write_text(text)
    if (results / "domains.csv").exists():
        draw_domains(pd.read_csv(results / "domains.csv"), document.parent / "figures" / "benchmarks_domains.svg")


def with_table(text: str, name: str, table: str) -> str:
    """Insert a table between its markers in the text."""
    place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", flags=re.S)
    if not place.search(text):
        sys.exit(f"The document has no place for the table {name!r}.")
    return place.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


# Tables ---------------------------------------------------------------------------------------------------------------


def domains(scores: pd.DataFrame, datasets: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
    """Return one row per method: mean scores over data sets, their spread over seeds, and costs."""
    scores = scores[datasets(scores["dataset"])]
    n_datasets = scores["dataset"].nunique()
    mixture = scores[scores["clustering"].isin(["gmm", "its own"])]
    subsampled = scores[scores["clustering"] == "gmm_subsample"]

    def column(rows: pd.DataFrame, metric: str, smooth: int) -> pd.Series:
        rows = rows[(rows["metric"] == metric) & (rows["smooth"] == smooth)]
        by_seed = rows.groupby(["method", "dataset", "seed", "cluster_seed"])["value"].mean()
        mean = by_seed.groupby(["method", "dataset"]).mean().groupby("method").agg(["mean", "count"])
        spread = by_seed.groupby(["method", "dataset"]).std().groupby("method").mean().fillna(0)
        return pd.Series(
            {
                name: f"{row['mean']:.3f} ± {spread[name]:.3f}"
                + ("" if row["count"] == n_datasets else f" ({row['count']:.0f} of {n_datasets})")
                for name, row in mean.iterrows()
            },
            dtype=object,
        )

    table = pd.DataFrame(
        {
            "ARI": column(mixture, "ARI", 0),
            "ARI, averaged": column(mixture, "ARI", 1),
            "ARI, subsamples": column(subsampled, "ARI", 0),
            "ARI, averaged, subsamples": column(subsampled, "ARI", 1),
            "NMI, averaged": column(mixture, "NMI", 1),
            "ARI, averaged, Leiden": column(scores[scores["clustering"] == "leiden"], "ARI", 1),
        }
    )
    return labelled(table.join(costs(scores), how="outer"), notes(scores))


def cost(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: the cost of embedding the first cortex section, also relative to sagefm."""
    runs = scores[scores["dataset"] == CORTEX[0]].drop_duplicates(["method", "seed"]).groupby("method")
    seconds = runs["cpu_seconds"].mean().dropna().sort_values()
    table = pd.DataFrame({"processor, s": seconds.map("{:.1f}".format), "peak, MiB": runs["peak_mib"].mean().round()})
    table = table.loc[seconds.index].astype({"peak, MiB": int})
    for method, title in {
        "sagefm": "relative to sagefm, training included",
        "sagefm_pretrained": "relative to pretrained",
    }.items():
        if method in seconds:
            table[title] = (seconds / seconds[method]).map(
                lambda ratio: f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
            )
    return table.rename(index=ROWS | BOLD).rename_axis("").reset_index()


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
    return labelled(table.join(costs(rows), how="outer"), notes(rows), {"majority": "Commonest tissue"})


def regions(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: scores on pooled regions."""
    kept = scores[scores["statistics"].eq("mean") & scores["scale_by"].eq("sample")]
    table = wide(kept, ["accuracy", "balanced_accuracy", "macro_f1"])
    table.loc["majority", "accuracy"] = wide(kept, ["majority_accuracy"]).iloc[0, 0]
    return labelled(table, notes(scores), {"majority": "Commonest tissue"})


def mixing(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return one row per method: summary scores of scib-metrics, with features scaled within sections."""
    kept = scores[scores["dataset"].eq(dataset) & scores["scale_by"].eq("sample")]
    return labelled(wide(kept, ["Batch correction", "Bio conservation", "Total"]), notes(scores))


def recovery(scores: pd.DataFrame, split: str, metrics: dict[str, str]) -> pd.DataFrame:
    """Return one row per method: scores on the held-out sections."""
    scores = scores[scores["dataset"] == split]
    table = wide(scores, list(metrics)).rename(columns=metrics)
    return labelled(table.join(costs(scores)), notes(scores))


def wide(scores: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return a table of methods by metrics: means over seeds, as text."""
    means = scores.groupby(["method", "metric"])["value"].mean().unstack()
    return means.reindex(columns=metrics).map(lambda value: "" if np.isnan(value) else f"{value:.3f}")


def costs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return seconds and peak memory of each method, as means over the data sets and seeds of the table."""
    runs = scores.drop_duplicates(["dataset", "method", "seed"]).groupby("method")
    columns = {"wall, s": ("seconds", 1), "processor, s": ("cpu_seconds", 1), "peak, MiB": ("peak_mib", 1)}
    made = {
        title: runs[name].mean().map(lambda value: "" if np.isnan(value) else f"{value:.0f}")
        for title, (name, _) in columns.items()
        if name in scores
    }
    return pd.DataFrame(made)


def notes(scores: pd.DataFrame) -> pd.Series:
    """Return, for each method without scores, the reason."""
    empty = scores[scores["metric"].isna()] if "metric" in scores else scores
    return empty.groupby("method")["note"].first().map(lambda note: note.split(". ")[0])  # the first sentence


def labelled(table: pd.DataFrame, why: pd.Series, more: dict[str, str] | None = None) -> pd.DataFrame:
    """Order and label the rows, and add a column with the reason why a row is empty."""
    names = {**(more or {}), **ROWS}
    table = table.reindex([name for name in names if name in table.index or name in why.index])
    if len(why):
        table["note"] = why.reindex(table.index)
    return table.fillna("").rename(index=names | BOLD).rename_axis("").reset_index()


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def ablations(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per variant of the default network: scores on both data sets, and its size."""
    order = list(PROTOCOL["ablations"]["variants"])
    values = scores.groupby(["method", "dataset", "metric"])["value"].mean()

    def column(dataset: str, metric: str, form: str) -> pd.Series:
        return values.xs((dataset, metric), level=("dataset", "metric")).map(form.format)

    table = pd.DataFrame(
        {
            "r, breast": column("breast", "top500_r", "{:.3f}"),
            "fitted": column("breast", "fitted_top500_r", "{:.3f}"),
            "r, cortex": column("cortex", "top500_r", "{:.3f}"),
            "fitted ": column("cortex", "fitted_top500_r", "{:.3f}"),
            "ARI, cortex": column("cortex", "ARI", "{:.3f}"),
            "parameters": column("breast", "parameters", "{:,.0f}"),
            "epochs": column("breast", "epochs", "{:.0f}"),
            "processor, s": column("breast", "cpu_seconds", "{:.0f}"),
        }
    )
    names = scores.drop_duplicates("method").set_index("method")["label"]
    table = table.reindex([name for name in order if name in table.index])
    return table.fillna("").rename(index=names).rename_axis("").reset_index()


MASKED = {
    "top500_r": "r, 500 most expressed",
    "median_r": "median r, all genes",
    "top500_share_q05": "share of the 500, q < 0.05",
    "share_q05": "share of all genes, q < 0.05",
}
MISSING = {"mean_r": "mean r", "median_r": "median r", "share_above_02": "share of genes r > 0.2"}
TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "domains_cortex": ("domains", lambda scores: domains(scores, lambda names: names.isin(CORTEX))),
    "domains_others": ("domains", lambda scores: domains(scores, lambda names: ~names.isin(CORTEX))),
    "cost": ("domains", cost),
    "annotation_breast": ("annotation", lambda scores: annotation(scores, "breast")),
    "annotation_cortex": ("annotation", lambda scores: annotation(scores, "cortex")),
    "annotation_heart": ("annotation", lambda scores: annotation(scores, "heart")),
    "regions": ("regions", regions),
    "mixing_breast": ("mixing", lambda scores: mixing(scores, "breast")),
    "mixing_cortex": ("mixing", lambda scores: mixing(scores, "cortex")),
    "recovery_breast": ("recovery", lambda scores: recovery(scores, "breast", MASKED)),
    "recovery_cortex": ("recovery", lambda scores: recovery(scores, "cortex", MASKED)),
    "missing_breast": ("missing_genes", lambda scores: recovery(scores, "breast", MISSING)),
    "missing_cortex": ("missing_genes", lambda scores: recovery(scores, "cortex", MISSING)),
    "ablations": ("ablations", ablations),
}


# Figures --------------------------------------------------------------------------------------------------------------


def draw_domains(scores: pd.DataFrame, path: Path) -> None:
    """Plot every clustering of the cortex sections (except Leiden) as a dot, with methods sorted by mean ARI."""
    kept = scores[scores["dataset"].isin(CORTEX) & (scores["metric"] == "ARI") & (scores["clustering"] != "leiden")]
    order = kept.groupby(["method", "smooth"])["value"].mean().groupby("method").max().sort_values().index
    _, ax = plt.subplots(figsize=(7, 0.35 * len(order) + 1))
    for smooth, color, name in ((0, "#0072B2", "as given"), (1, "#D55E00", "averaged over the neighbours")):
        rows = kept[kept["smooth"] == smooth]
        place = rows["method"].map({method: number for number, method in enumerate(order)}) + 0.15 - 0.3 * smooth
        ax.scatter(rows["value"], place, s=12, color=color, alpha=0.6, linewidths=0, label=name)
    ax.set(yticks=range(len(order)), yticklabels=[ROWS[name] for name in order], xlabel="adjusted Rand index, cortex")
    ax.grid(axis="x", color="0.5", alpha=0.3)
    ax.legend(loc="upper left", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    plt.savefig(path, bbox_inches="tight", metadata={"Date": None})  # white: text is black on dark pages, too


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *[HERE / "results", HERE.parents[1] / "docs" / "benchmarks.md"][len(given) :])
