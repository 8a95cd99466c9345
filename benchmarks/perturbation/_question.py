"""Sections, and the sets of targets that can be evaluated in each of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import sagefm
from sagefm.data import Spots
from sagefm.model.perturbation import SectionGenes, TargetSet, read_net, regulators_of, target_set
from sagefm.weights import find_weights, read_card

sys.path.insert(0, str(Path(__file__).parents[1]))
from _nets import Net
from _rows import read, spots_of
from _sections import FOLDER

# The packaged weights "human-mini" were not trained on any of these sections but the last; E1 and
# T2791 were used to stop the training.
SECTIONS = [
    "her2st_andersson2021__F1",
    "her2st_andersson2021__F2",
    "her2st_andersson2021__F3",
    "brain_ma2025__T2791",
    "brain_ma2025__T4515",
    "colon_fawknercorbett2021__A3_12PCW",
    "her2st_andersson2021__E1",
    "tnbc_bassiouni2023__120E",
]
RESOURCES = FOLDER.parent / "resources"


class Question:
    """A section, the pre-trained model on it, and by net the sets of targets that can be evaluated."""

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


def corpus_of(weights: str) -> list[str]:
    """Return the sections that the weights were trained on, by the names of their files."""
    return [section["sample"] for section in read_card(find_weights(weights))["sections"]]


def training_spots(weights: str, corpus: list[str]) -> Iterator[Spots]:
    """Yield the spots of the sections that the weights were trained on."""
    for name in corpus:
        yield spots_of(sagefm.SAGEFM.from_pretrained(weights, read(FOLDER / f"{name}.h5ad")))
