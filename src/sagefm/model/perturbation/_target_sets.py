"""Signed sets of targets (pathways, regulons, gene lists), their regulators, and matched genes to compare them with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from sagefm._errors import MissingKeyError
from sagefm.data import CHUNK, Spots, chunks, positions_of
from sagefm.model.perturbation._pairs import ROLES, split

Net = pd.DataFrame | Mapping[str, Sequence[str]]
Regulators = Mapping[str, str | Sequence[str]]

# Genes that are set for the pathways of PROGENy (Schubert et al. 2018; Holland et al. 2020): the ligand or receptor a
# pathway is named after (for the hormones, their receptor), otherwise the transcription factor that mediates its
# response (hypoxia: HIF1A, Semenza 2012; JAK-STAT: STAT1, Stark and Darnell 2012; WNT: CTNNB1, Clevers and Nusse 2012)
# or the kinase it is named after (MAPK, PI3K).
PROGENY_REGULATORS: dict[str, str] = {
    "Androgen": "AR",
    "EGFR": "EGFR",
    "Estrogen": "ESR1",
    "Hypoxia": "HIF1A",
    "JAK-STAT": "STAT1",
    "MAPK": "MAPK1",
    "NFkB": "NFKB1",
    "PI3K": "PIK3CA",
    "TGFb": "TGFB1",
    "TNFa": "TNF",
    "Trail": "TNFSF10",
    "VEGF": "VEGFA",
    "WNT": "CTNNB1",
    "p53": "TP53",
}

MIN_DETECTED = 0.05  # share of spots with counts of a target
MIN_TARGETS = 5
_N_MATCHED = 3  # matched genes for each target
_NEAREST = 50  # genes among which those of a target are looked for; the closest may match several targets


class SectionGenes(NamedTuple):
    """The model's genes in a section: mean and standard deviation on the log scale, share of spots with counts."""

    names: pd.Index
    mean: np.ndarray
    deviation: np.ndarray
    detected: np.ndarray

    @classmethod
    def of(cls, spots: Spots) -> Self:
        """Measure all spots."""
        rows = np.arange(spots.n_obs)
        detected = np.zeros(len(spots.genes))
        for piece in chunks(rows, CHUNK):
            detected += np.asarray((spots.log(piece) > 0).sum(axis=0)).ravel()
        return cls(spots.genes, *spots.gene_moments(rows), detected / spots.n_obs)

    @property
    def varying(self) -> np.ndarray:
        """Positions of the genes that vary."""
        return np.flatnonzero(self.deviation > 0)


@dataclass(frozen=True)
class TargetSet:
    """The targets of one source, and the genes that they are compared with, all as positions.

    Parameters
    ----------
    regulators
        Genes that are set together, (regulators,).
    targets, signs
        Targets, and 1 for those expected to rise with the source and -1 for those expected to fall, each (targets,).
    controls, control_signs
        Genes that match the targets in mean and standard deviation, with the signs of their targets, each (controls,).
    excluded
        Targets and regulators, those that are not read included: none of them is a control.
    """

    regulators: np.ndarray
    targets: np.ndarray
    signs: np.ndarray
    controls: np.ndarray
    control_signs: np.ndarray
    excluded: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        """Targets, then controls."""
        return np.concatenate([self.targets, self.controls])

    @property
    def all_signs(self) -> np.ndarray:
        """Signs of `genes`."""
        return np.concatenate([self.signs, self.control_signs])


def read_net(net: Net) -> pd.DataFrame:
    """Return a net as a table with the columns source, target and weight, none of them missing, without duplicates."""
    if isinstance(net, Mapping):
        net = pd.DataFrame([(name, gene) for name, genes in net.items() for gene in genes], columns=ROLES)
    if not isinstance(net, pd.DataFrame):
        raise TypeError(
            "`net` must be a DataFrame with columns 'source', 'target' and 'weight', as in decoupler, or a dict of "
            f"lists of genes; found {type(net).__name__}."
        )
    for column in ROLES:
        if column not in net:
            raise MissingKeyError(f"`net` has no column {column!r}; found {list(net)}.")
    table = net[ROLES].astype(str).assign(weight=_weights(net))[net[ROLES].notna().all(axis=1)]
    table = table[table["weight"] != 0].drop_duplicates()
    if not len(table):
        raise ValueError("`net` is empty; it needs at least one row with a source, a target and a weight.")
    if (twice := table.duplicated(ROLES)).any():
        source, target = table.loc[twice, ROLES].iloc[0]
        raise ValueError(
            f"{twice.sum()} pairs of `net` have several weights, for example {source!r} and {target!r}; keep one row "
            "for each pair."
        )
    return table.reset_index(drop=True)


def _weights(net: pd.DataFrame) -> pd.Series:
    """Return the weights of a net; 1 without a column of weights."""
    if "weight" not in net:
        return pd.Series(1.0, index=net.index)
    weights = pd.to_numeric(net["weight"], errors="coerce").astype(float)
    if n_invalid := int((~np.isfinite(weights)).sum()):
        raise ValueError(f"{n_invalid} of {len(net)} weights of `net` are missing, infinite or not a number.")
    return weights


def requested_sources(sources: Iterable[str] | str | None, table: pd.DataFrame) -> list[str]:
    """Return the sources to evaluate: all of the net by default."""
    known = list(dict.fromkeys(table["source"]))
    if sources is None:
        return known
    names = list(dict.fromkeys([sources] if isinstance(sources, str) else map(str, sources)))
    if not names:
        raise ValueError("`sources` is empty; name at least one source of the net.")
    if unknown := [name for name in names if name not in known]:
        raise MissingKeyError(f"{unknown[0]!r} is not a source of `net`; it has {known[:20]}.")
    return names


def usable_sets(
    table: pd.DataFrame, sources: Iterable[str], regulators: Regulators, section: SectionGenes, n_targets: int | None
) -> tuple[dict[str, TargetSet], dict[str, str]]:
    """Return the set of each source, and for the sources without one the reason; raise if there is no set."""
    sets, reasons = {}, {}
    for source in sources:
        genes = regulators_of(source, regulators, section.names)
        rows = table[table["source"] == source]
        found = genes if isinstance(genes, str) else target_set(genes, rows, section, n_targets)
        if isinstance(found, str):
            reasons[source] = found
        else:
            sets[source] = found
    if not sets:
        source, reason = next(iter(reasons.items()))
        raise ValueError(
            f"None of the {len(reasons)} sources can be evaluated; {source!r}, for example: {reason}. Pass the genes "
            "to set for each source as `regulators={source: gene}`, and sets whose genes the section expresses."
        )
    return sets, reasons


def regulators_of(source: str, regulators: Regulators, genes: pd.Index) -> np.ndarray | str:
    """Return the positions of the genes to set for a source, or the reason why there are none.

    In this order: those named in `regulators`, the gene or the complex `"A_B"` that the source is, the regulator of a
    pathway of PROGENy.
    """
    if source in regulators:
        named = regulators[source]
        return positions_of([named] if isinstance(named, str) else dict.fromkeys(named), genes)
    parts = split(source, genes)
    if all(part in genes for part in parts):
        return genes.get_indexer(pd.Index(parts))
    if (gene := PROGENY_REGULATORS.get(source)) is None:
        return "neither a gene of the model nor in `regulators`"
    return genes.get_indexer(pd.Index([gene])) if gene in genes else f"its regulator {gene} is not in the model"


def target_set(
    regulators: np.ndarray,
    rows: pd.DataFrame,
    section: SectionGenes,
    n_targets: int | None,
    min_targets: int = MIN_TARGETS,
) -> TargetSet | str:
    """Return the targets of a source, whose `rows` of the net are given, or the reason why it cannot be evaluated."""
    absent = regulators[~(section.deviation[regulators] > 0)]
    if len(absent):
        return f"no counts of {', '.join(section.names[absent])}"
    positions = section.names.get_indexer(pd.Index(rows["target"]))
    excluded = np.union1d(positions[positions >= 0], regulators)
    usable = np.isin(positions, section.varying) & ~np.isin(positions, regulators)
    usable &= section.detected[positions] >= MIN_DETECTED
    targets, weights = positions[usable], rows["weight"].to_numpy()[usable]
    strongest = np.lexsort([-section.mean[targets], -np.abs(weights)])[:n_targets]
    targets, signs = targets[strongest], np.sign(weights[strongest])
    if len(targets) < min_targets:
        return f"only {len(targets)} targets are expressed"
    controls, of_target = matched_genes(targets, excluded, section)
    if len(controls) < len(targets):
        return "too few other genes to compare with"
    return TargetSet(regulators, targets, signs, controls, signs[of_target], excluded)


def matched_genes(targets: np.ndarray, excluded: np.ndarray, section: SectionGenes) -> tuple[np.ndarray, np.ndarray]:
    """Return for each target the genes closest in mean and standard deviation, and the numbers of their targets.

    No gene is used twice, and none is `excluded`. Targets choose in turn, so that none of them has all the good ones.
    """
    near, used, chosen = _nearest(targets, excluded, section, _NEAREST), set(), []
    for _ in range(_N_MATCHED):
        for number, genes in enumerate(near.tolist()):
            if (gene := next((gene for gene in genes if gene not in used), None)) is not None:
                used.add(gene)
                chosen.append((gene, number))
    controls = np.array(chosen, dtype=np.intp).reshape(-1, 2)
    return controls[:, 0], controls[:, 1]


def random_sources(targets: TargetSet, section: SectionGenes, n_controls: int) -> np.ndarray:
    """Return random sources to compare a set's with, (controls, regulators): genes that match each regulator.

    The lists of the regulators are shifted, so that similar regulators are not replaced by the same gene at once.
    """
    near = _nearest(targets.regulators, targets.excluded, section, n_controls)
    return np.stack([np.roll(genes, number) for number, genes in enumerate(near)], axis=1)


def _nearest(genes: np.ndarray, excluded: np.ndarray, section: SectionGenes, n: int) -> np.ndarray:
    """Return the `n` genes, or all there are, that are closest in mean and standard deviation, (genes, n)."""
    candidates = np.setdiff1d(section.varying, excluded)
    moments = np.log(np.column_stack([section.mean, section.deviation]).clip(1e-12))
    ranks = np.arange(1, min(n, len(candidates)) + 1)
    if not len(ranks):
        return np.empty((len(genes), 0), dtype=np.intp)
    return candidates[cKDTree(moments[candidates]).query(moments[genes], k=ranks)[1]]
