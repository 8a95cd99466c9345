"""Score pretrained weights on sections that they were not trained on.

    python benchmarks/pretraining/held_out.py human.csv human-mini FOLDER ... --out scores.csv

The table is that of `packaged.py`; its sections for validation and for testing are scored. Per section: mean r of the
500 most expressed genes that all the given weights know, for the network alone (`fit_section=False`, also without the
contribution of the neighbours), fitted to the section, the mean of the neighbours, and the ceiling from noise.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import pandas as pd

import sagefm
from sagefm.module import SectionFit

VARIANTS = {
    "network": {"fit_section": False},
    "alone": {"fit_section": False},  # with the contribution of the neighbours
    "fitted": {"fit_section": True},
}
NETWORK_ONLY = SectionFit(skip_share=0.0)


def main() -> None:
    """Score every section by every set of weights, and print means over organs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("weights", nargs="+", help="names or folders of weights")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--splits", nargs="+", default=["validation", "test"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = pd.read_csv(arguments.table)
    scores = pd.DataFrame(
        row
        for section in table[table["split"].isin(arguments.splits)].itertuples()
        for row in section_rows(section, arguments.weights, arguments.variants)
    )
    if arguments.out:
        scores.to_csv(arguments.out, index=False, float_format="%.4f")
    print(by_organ(scores).round(3).to_string())


def section_rows(section: tuple, weights: list[str], variants: list[str]) -> Iterator[dict]:
    """Yield one row for each set of weights: scores of one section on the genes that all of them know."""
    found = {name: recovery(section.path, name, variants) for name in weights}
    tables = [table for by_variant in found.values() for table in by_variant.values()]
    shared = sorted(set.intersection(*(set(table.index) for table in tables)))
    top = tables[0].loc[shared, "mean_expression"].nlargest(500).index
    for name, by_variant in found.items():
        first = next(iter(by_variant.values())).loc[top]
        yield {
            "section": section.sample,
            "organ": section.sample.split("_")[1 if section.sample.startswith("mouse") else 0],
            "split": section.split,
            "weights": name,
            "neighbors": first["r_neighbors"].mean(),
            "ceiling": first["r_max"].mean(),
            **{variant: table.loc[top, "r"].mean() for variant, table in by_variant.items()},
        }


def recovery(path: str, name: str, variants: list[str]) -> dict[str, pd.DataFrame]:
    """Return the recovery of one section by one set of weights, for each variant of the prediction."""
    adata = ad.read_h5ad(path)
    adata.obs_names_make_unique()
    model = sagefm.SAGEFM.from_pretrained(name, adata)
    results = {}
    for variant in variants:
        model.module.section_fit = NETWORK_ONLY if variant == "network" else SectionFit()
        results[variant] = model.get_masked_recovery(**VARIANTS[variant])
    return results


def by_organ(scores: pd.DataFrame) -> pd.DataFrame:
    """Return means over the sections of each organ, and over organs."""
    numbers = scores.drop(columns=["section", "split"])
    table = numbers.groupby(["weights", "organ"]).mean()
    means = table.groupby("weights").mean()
    means.index = pd.MultiIndex.from_product([means.index, ["mean of organs"]])
    return pd.concat([table, means]).sort_index()


if __name__ == "__main__":
    main()
