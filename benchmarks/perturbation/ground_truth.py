"""Do effects agree with ground truth: pathways, regulons, ligands? Results are written whatever they are.

    python benchmarks/perturbation/ground_truth.py measure [--weights human-mini] [--sections A B] [--nets progeny]
        [--methods pretrained section pooled] [--where self neighbors] [--out FILE.csv]
    python benchmarks/perturbation/ground_truth.py report

The first line measures and writes a CSV file, one row per section, net, place, method and source; the second writes
the table and the figure of docs/perturbation.md from it. Sections and resources are read from SAGEFM_DATA. A source is
set from its minimum to its maximum; its strongest expressed targets, each masked in its spot, are compared with three
genes each that match them in mean and standard deviation. All methods are compared on the same genes.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import sagefm
from sagefm.data import Spots
from sagefm.model.perturbation import SectionGenes, SetScores, TargetSet, read_net, regulators_of, target_set
from sagefm.weights import find_weights, read_card

sys.path.insert(0, str(Path(__file__).parents[1]))
from _nets import NETS, Net
from _rows import (
    Effects,
    effects_of,
    from_scratch,
    pooled_correlations,
    read,
    section_correlation,
    spots_of,
    with_random_weights,
)
from _sections import FOLDER

# Sections that no weights were trained on come first; "human-mini" was stopped by those of patient E.
SECTIONS = [
    "her2st_andersson2021__F1",
    "her2st_andersson2021__F2",
    "her2st_andersson2021__F3",
    "brain_ma2025__T2465",
    "brain_ma2025__T4515",
    "colon_fawknercorbett2021__A3_12PCW",
    "her2st_andersson2021__E1",
    "tnbc_bassiouni2023__120E",
]
RESOURCES, HERE = FOLDER.parent / "resources", Path(__file__).parent


class Question:
    """A section and the sets of targets that are asked of it, by net."""

    def __init__(self, weights: str, name: str, nets: dict[str, Net]) -> None:
        self.name, self.nets, self.adata = name, nets, read(FOLDER / f"{name}.h5ad")
        model = sagefm.SAGEFM.from_pretrained(weights, self.adata)
        self.adata = self.adata[:, self.adata.var_names.isin(model.genes)].copy()
        self.model = sagefm.SAGEFM.from_pretrained(weights, self.adata)
        self.spots = spots_of(self.model)
        self.section = SectionGenes.of(self.spots)
        self.sets = {name: dict(self._sets(net)) for name, net in nets.items()}

    def _sets(self, net: Net) -> Iterator[tuple[str, TargetSet]]:
        """Yield the sources that can be set and have enough targets in this section."""
        genes, deviation = self.section.names, self.section.deviation
        for source, rows in read_net(net.table).groupby("source", sort=False):
            present = genes.intersection(net.regulators.get(source, []), sort=False)
            varying = [gene for gene in present if deviation[genes.get_loc(gene)] > 0]
            found = regulators_of(source, {source: varying} if varying else {}, genes)
            if not isinstance(found, str):
                found = target_set(found, rows, self.section, net.n_targets, net.min_targets)
            if not isinstance(found, str):
                yield source, found


def needed_sources(questions: list[Question], net: str) -> np.ndarray:
    """Return the positions of all genes that are set, ascending."""
    sets = [targets for question in questions for targets in question.sets[net].values()]
    return np.unique(np.concatenate([targets.regulators for targets in sets]))


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


def methods_of(question: Question, weights: str, names: list[str]) -> Iterator[tuple[str, Effects]]:
    """Yield the methods that need one section only."""
    genes = question.section.names
    if "pretrained" in names:
        yield "pretrained", effects_of(question.model, genes)
    if "scratch" in names:
        yield "scratch", effects_of(from_scratch(question.adata, seed=0), genes)
    if "random" in names:
        yield "random", effects_of(with_random_weights(weights, question.adata, seed=0), genes)
    if "section" in names:
        yield "section", section_correlation(question.spots)


def corpus_of(weights: str) -> list[str]:
    """Return the sections that the weights were trained on, by the names of their files."""
    return [section["sample"] for section in read_card(find_weights(weights))["sections"]]


def training_spots(weights: str, corpus: list[str]) -> Iterator[Spots]:
    """Yield the spots of the sections that the weights were trained on."""
    for name in corpus:
        yield spots_of(sagefm.SAGEFM.from_pretrained(weights, read(FOLDER / f"{name}.h5ad")))


def measure(given: argparse.Namespace) -> None:
    """Score all methods and write the CSV file after each of them."""
    nets, corpus, rows = {name: NETS[name](RESOURCES) for name in given.nets}, corpus_of(given.weights), []
    questions = [Question(given.weights, name, nets) for name in given.sections]

    def add(question: Question, net: str, method: str, effects: Effects) -> None:
        rows.extend(scored(question, net, method, effects, given.where))
        pd.DataFrame(rows).round(4).to_csv(given.out, index=False)
        print(question.name, net, method, flush=True)

    for question in questions:
        for method, effects in methods_of(question, given.weights, given.methods):
            for net in nets:
                add(question, net, method, effects)
    for net in nets if "pooled" in given.methods else ():
        genes, needed = questions[0].section.names, needed_sources(questions, net)
        for method, effects in pooled_correlations(training_spots(given.weights, corpus), genes, needed).items():
            for question in questions:
                add(question, net, method, effects)
    table = pd.DataFrame(rows)
    table.insert(1, "in_corpus", table["section"].isin(corpus))
    table.round(4).to_csv(given.out, index=False)
    print(summary(table).to_string(), flush=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over sources, by section."""
    keys = ["net", "where", "method", "section"]
    means = table.groupby(keys, sort=False)[["auroc", "sign_agreement", "control_sign_agreement"]].mean()
    return means.join(table.groupby(keys, sort=False).size().rename("n_sources")).round(3)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["measure", "report"])
    parser.add_argument("--weights", default="human-mini")
    parser.add_argument("--sections", nargs="+", default=SECTIONS)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--methods", nargs="+", default=["pretrained", "scratch", "random", "section", "pooled"])
    parser.add_argument("--where", nargs="+", default=["self", "neighbors"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ground_truth.csv")
    measure(parser.parse_args())
