"""Do effects agree with ground truth: pathways, regulons, ligands? Results are written whatever they are.

    python benchmarks/perturbation/ground_truth.py measure [--weights human-mini] [--sections A B] [--nets progeny]
        [--methods pretrained section pooled] [--where self neighbors] [--out FILE.csv.gz] [--published FOLDER]
    python benchmarks/perturbation/ground_truth.py report [--out FILE.csv.gz] [--document docs/perturbation.md]

The first line measures and writes a CSV file, one row per section, net, place, method and source; the second writes
the tables and the figure of docs/perturbation.md from it. Sections and resources are read from SAGEFM_DATA. A source is
set from its minimum to its maximum; its strongest expressed targets, each masked in its spot, are compared with three
genes each that match them in mean and standard deviation. All methods are compared on the same genes. Seed 0.
The published network is one that `benchmarks/quality/run.py recovery --methods published_converged` trained.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from _ground_truth_report import write_report
from _nets import NETS
from _question import RESOURCES, SECTIONS, Question, corpus_of, training_spots
from _rows import (
    Effects,
    effects_of,
    from_scratch,
    pooled_correlations,
    saved_effects,
    section_correlation,
    with_random_weights,
)

from sagefm.model.perturbation import SetScores

METHODS = ["pretrained", "scratch", "published", "random", "section", "pooled"]
HERE = Path(__file__).parent


def methods_of(question: Question, given: argparse.Namespace) -> Iterator[tuple[str, Effects]]:
    """Yield the methods that need one section only."""
    genes, names, weights = question.section.names, given.methods, given.weights
    if "pretrained" in names:
        yield "pretrained", effects_of(question.model, genes)
    if "scratch" in names:
        yield "scratch", effects_of(from_scratch(question.adata, seed=0), genes)
    if "published" in names and given.published:
        yield "published", saved_effects(given.published, question.adata, genes)
    if "random" in names:
        yield "random", effects_of(with_random_weights(weights, question.adata, seed=0), genes)
    if "section" in names:
        yield "section", section_correlation(question.spots)


def scored(question: Question, net: str, method: str, effects: Effects, places: list[str]) -> Iterator[dict]:
    """Yield the scores of a method for every source of a net."""
    for where in places:
        for source, targets in question.sets[net].items():
            scores = SetScores.of(effects(targets, where, question.nets[net].masked), targets)
            yield {
                "section": question.name,
                "net": net,
                "where": where,
                "method": method,
                "source": source,
                "n_targets": len(targets.targets),
                "auroc": float(scores.auroc),
                "sign_agreement": float(scores.sign_agreement),
                "control_sign_agreement": float(scores.control_sign_agreement),
            }


def needed_sources(questions: list[Question]) -> np.ndarray:
    """Return the positions of all genes that are set, ascending."""
    sets = [targets for question in questions for by_source in question.sets.values() for targets in by_source.values()]
    return np.unique(np.concatenate([targets.regulators for targets in sets]))


def all_scores(given: argparse.Namespace, corpus: list[str]) -> Iterator[dict]:
    """Yield the scores of all methods."""
    nets = {name: NETS[name](RESOURCES) for name in given.nets}
    questions = [Question(given.weights, name, nets) for name in given.sections]
    for question in questions:
        for method, effects in methods_of(question, given):
            for net in nets:
                yield from scored(question, net, method, effects, given.where)
    if "pooled" in given.methods:
        training, genes = training_spots(given.weights, corpus), questions[0].section.names
        for method, effects in pooled_correlations(training, genes, needed_sources(questions)).items():
            for question in questions:
                for net in nets:
                    yield from scored(question, net, method, effects, given.where)


def measure(given: argparse.Namespace) -> None:
    """Score all methods, write the CSV file and print means over sources."""
    corpus = corpus_of(given.weights)
    table = pd.DataFrame(all_scores(given, corpus))
    table.insert(1, "in_corpus", table["section"].isin(corpus))
    table.insert(0, "weights", Path(given.weights).name)
    table.round(3).to_csv(given.out, index=False)
    keys = ["net", "where", "method", "section"]
    means = table.groupby(keys, sort=False)[["auroc", "sign_agreement", "control_sign_agreement"]].mean()
    print(means.join(table.groupby(keys, sort=False).size().rename("n_sources")).round(3).to_string())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["measure", "report"])
    parser.add_argument("--weights", default="human-mini")
    parser.add_argument("--sections", nargs="+", default=SECTIONS)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--published", type=Path, help="folder of a published network saved by `model.save`")
    parser.add_argument("--where", nargs="+", default=["self", "neighbors"], choices=["self", "neighbors"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ground_truth.csv.gz")
    parser.add_argument("--document", type=Path, default=HERE.parents[1] / "docs" / "perturbation.md")
    given = parser.parse_args()
    if given.task == "measure":
        measure(given)
    else:
        write_report(given.out, given.document)
