"""Do p-values of `get_pathway_response` hold their level for random sources?

python benchmarks/perturbation/null_sets.py [--weights human-mini] [--sections A B] [--n 150] [--controls 300]

For every pathway of PROGENy: its real targets, and a set of random genes that match them in mean and standard
deviation, each with `n` random expressed sources. Printed are the shares of p-values below 0.05 and 0.01, by section.
"""

import argparse
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from _nets import NETS
from _question import RESOURCES, Question

from sagefm.model.perturbation import (
    Counterfactual,
    Levels,
    SetScores,
    TargetSet,
    matched_genes,
    random_sources,
    sampled_spots,
)


def random_set(targets: TargetSet, question: Question) -> TargetSet:
    """Return random genes that match the targets, with matched genes of their own."""
    n = len(targets.targets)
    genes, signs = targets.controls[:n], targets.control_signs[:n]  # the closest gene of every target
    excluded = np.union1d(genes, targets.regulators)
    controls, of_target = matched_genes(genes, excluded, question.section)
    return replace(
        targets, targets=genes, signs=signs, controls=controls, control_signs=signs[of_target], excluded=excluded
    )


def all_effects(question: Question, genes: np.ndarray, seed: int) -> np.ndarray:
    """Return the scaled effects of all genes that vary on `genes`, (genes of the model, genes); NaN for the others."""
    spots, section, levels = question.spots, question.section, Levels.parse(2)
    rows = sampled_spots(np.ones((1, spots.n_obs)), seed)
    share = np.full((1, len(rows)), 1 / len(rows), dtype=np.float32)
    counterfactual = Counterfactual(question.model.module, spots, rows, np.arange(len(section.names)), "self", False)
    effects = np.full((len(section.names), len(genes)), np.nan, dtype=np.float32)
    for source in section.varying:
        effects[source] = counterfactual.mean_changes(np.array([source]), levels, genes, share)[0]
    return effects / section.deviation[genes].astype(np.float32)


def p_values(auroc: np.ndarray, targets: TargetSet, sources: np.ndarray, question: Question, n: int) -> list[float]:
    """Return the p-value of the set for each source, as in `get_pathway_response`; `auroc` is that of every source."""
    found = []
    for source in sources:
        one = replace(targets, regulators=np.array([source]), excluded=np.union1d(targets.excluded, source))
        controls = auroc[random_sources(one, question.section, n)[:, 0]]
        found.append((1 + np.sum(controls >= auroc[source])) / (1 + len(controls)))
    return found


def measured(question: Question, n: int, n_controls: int, seed: int) -> pd.DataFrame:
    """Return the p-values of all pathways."""
    rng, parts, expressed = np.random.default_rng(seed), [], np.flatnonzero(question.section.detected >= 0.05)
    sets = {"real targets": list(question.sets["progeny"].values())}
    sets["random genes"] = [random_set(targets, question) for targets in sets["real targets"]]
    genes = np.unique(np.concatenate([targets.genes for kind in sets.values() for targets in kind]))
    effects = all_effects(question, genes, seed)
    for kind, of_kind in sets.items():
        for targets in of_kind:
            auroc = SetScores.of(effects[:, np.searchsorted(genes, targets.genes)], targets).auroc
            sources = rng.choice(np.setdiff1d(expressed, targets.excluded), n, replace=False)
            p = p_values(auroc, targets, sources, question, n_controls)
            parts.append(pd.DataFrame({"section": question.name, "kind": kind, "p": p}))
    return pd.concat(parts)


def shares(p: pd.api.typing.SeriesGroupBy) -> pd.DataFrame:
    """Return the number of p-values and the shares below 0.05 and 0.01."""
    return p.agg(n="size", below_5=lambda p: (p < 0.05).mean(), below_1=lambda p: (p < 0.01).mean()).round(4)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="human-mini")
    parser.add_argument("--sections", nargs="+", default=["her2st_andersson2021__F1", "brain_ma2025__T2791"])
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--controls", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    nets = {"progeny": NETS["progeny"](RESOURCES)._replace(n_targets=100)}
    table = pd.concat(
        [measured(Question(given.weights, name, nets), given.n, given.controls, given.seed) for name in given.sections]
    )
    print(shares(table.groupby(["section", "kind"])["p"]))
    print(shares(table.groupby("kind")["p"]))
