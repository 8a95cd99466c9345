"""Does the model know a direction: are ligands and regulators linked to their targets more than targets to them?

    python benchmarks/perturbation/direction.py [--weights human-mini] [--sections A B] [--where neighbors]

Forward, the source is set and each target is read. In reverse, each target is set and the source is read. Both are
scaled by the standard deviation of the gene that is read, and targets are compared with the same matched genes. Printed
are mean AUROC over sources (averaged over sections), their difference with a 95 % interval by bootstrap over sources,
and the share of targets, and of matched genes, whose forward effect is the larger one.
"""

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from _ground_truth_report import interval
from _nets import NETS
from _question import RESOURCES, SECTIONS, Question, corpus_of
from _rows import MAX_SPOTS

from sagefm.model.perturbation import Counterfactual, Levels, SetScores, TargetSet


def directions(question: Question, net: str, where: str) -> Iterator[dict]:
    """Yield scores in both directions for every source."""
    spots, section, levels = question.spots, question.section, Levels.parse(2)
    rows = np.sort(np.random.default_rng(0).permutation(spots.n_obs)[:MAX_SPOTS])
    share = np.full((1, len(rows)), 1 / len(rows), dtype=np.float32)
    counterfactual = Counterfactual(question.model.module, spots, rows, np.arange(len(section.names)), where, False)

    def effects(source: np.ndarray, read: np.ndarray) -> np.ndarray:
        return counterfactual.mean_changes(source, levels, read, share)[0] / section.deviation[read]

    def both(targets: TargetSet) -> tuple[np.ndarray, np.ndarray]:
        reverse = [effects(np.array([gene]), targets.regulators).mean() for gene in targets.genes]
        return effects(targets.regulators, targets.genes), np.array(reverse)

    for source, targets in question.sets[net].items():
        forward, reverse = both(targets)
        larger, n = np.abs(forward) > np.abs(reverse), len(targets.targets)
        yield {
            "section": question.name,
            "net": net,
            "where": where,
            "source": source,
            "forward": float(SetScores.of(forward, targets).auroc),
            "reverse": float(SetScores.of(reverse, targets).auroc),
            "larger": larger[:n].mean(),
            "larger_controls": larger[n:].mean(),
        }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="human-mini")
    parser.add_argument("--sections", nargs="+", default=SECTIONS)
    parser.add_argument("--nets", nargs="+", default=["progeny", "liana", "cellchat"], choices=list(NETS))
    parser.add_argument("--where", nargs="+", default=["self", "neighbors"])
    given = parser.parse_args()
    outside = [name for name in given.sections if name not in corpus_of(given.weights)]
    nets, rows = {name: NETS[name](RESOURCES) for name in given.nets}, []
    for name in outside:
        question = Question(given.weights, name, nets)
        rows += [row for where in given.where for net in nets for row in directions(question, net, where)]
    means = pd.DataFrame(rows).groupby(["net", "where", "source"], sort=False).mean(numeric_only=True)
    print(f"{given.weights}, sections outside the corpus: {', '.join(outside)}")
    for (net, where), part in means.groupby(["net", "where"], sort=False):
        difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(part["forward"] - part["reverse"]))
        averages = "forward {forward:.3f}, reverse {reverse:.3f}".format(**part.mean())
        shares = "forward larger {larger:.3f} of targets, {larger_controls:.3f} of matched genes".format(**part.mean())
        print(f"{net}, {where}, {len(part)} sources: {averages}, difference {difference}; {shares}")
