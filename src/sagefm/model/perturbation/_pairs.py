"""Pairs of a source and a target, complexes included, checked against the genes of the model."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm.data import positions_of

ROLES = ["source", "target"]
Names = Sequence[str] | str


@dataclass(frozen=True)
class Pairs:
    """Pairs to evaluate.

    Parameters
    ----------
    table
        Columns `source` and `target`, without duplicates.
    parts
        For each name in the table the positions of its genes in the model's order: several for a complex.
    """

    table: pd.DataFrame
    parts: dict[str, np.ndarray]

    @classmethod
    def parse(
        cls, sources: Names | None, targets: Names | None, pairs: pd.DataFrame | None, vocabulary: pd.Index
    ) -> Self:
        """Validate the requested genes or pairs."""
        if pairs is not None and sources is None and targets is None:
            table = _checked(pairs)
        elif pairs is None and sources is not None and targets is not None:
            table = _combinations(sources, targets)
        else:
            raise ValueError(
                "Pass either `sources` and `targets`, or `pairs`, a table with columns 'source' and 'target'; not both."
            )
        known = frozenset(vocabulary)  # looking up names in a pandas index is slow
        names = {name: split(name, known) for name in pd.unique(table.to_numpy().ravel())}
        positions_of(dict.fromkeys(chain.from_iterable(names.values())), vocabulary)  # raises for unknown genes
        parts = {name: vocabulary.get_indexer(pd.Index(genes)) for name, genes in names.items()}
        overlap = np.array([np.isin(parts[s], parts[t]).any() for s, t in table.itertuples(index=False)])
        if overlap.any() and (pairs is not None or overlap.all()):
            source, target = table[overlap].iloc[0]
            raise ValueError(
                f"In {overlap.sum()} of {len(table)} pairs the source is, or shares a gene with, the target, for "
                f"example {source!r} and {target!r}: a gene cannot be set and predicted at once. Remove such pairs."
            )
        return cls(table[~overlap].reset_index(drop=True), parts)

    @property
    def genes(self) -> np.ndarray:
        """Positions of all genes in the table, ascending."""
        return np.unique(np.concatenate([self.parts[name] for name in pd.unique(self.table.to_numpy().ravel())]))

    @property
    def sources(self) -> dict[str, np.ndarray]:
        """The parts of every source."""
        return {name: self.parts[name] for name in self.table["source"].unique()}

    def by(self, role: str) -> dict[str, np.ndarray]:
        """Return for each source, or target, the rows of its pairs in the table."""
        return {str(name): np.asarray(rows) for name, rows in self.table.groupby(role, sort=False).indices.items()}

    def parts_of(self, role: str, rows: np.ndarray | slice = slice(None)) -> list[np.ndarray]:
        """Return the parts of the source, or target, of some pairs, by their rows in the table."""
        return [self.parts[name] for name in self.table[role].iloc[rows]]


def split(name: str, vocabulary: Container[str]) -> list[str]:
    """Return the parts of a complex `"A_B"` without duplicates; the name of a gene is not split."""
    return [name] if name in vocabulary else list(dict.fromkeys(name.split("_")))


def _combinations(sources: Names, targets: Names) -> pd.DataFrame:
    lists = [[names] if isinstance(names, str) else list(names) for names in (sources, targets)]
    for role, names in zip(ROLES, lists, strict=True):
        if not names:
            raise ValueError(f"`{role}s` is empty; name at least one gene.")
    return pd.MultiIndex.from_product(lists, names=ROLES).to_frame(index=False).astype(str).drop_duplicates()


def _checked(pairs: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            f"`pairs` must be a DataFrame with columns 'source' and 'target'; found {type(pairs).__name__}."
        )
    for role in ROLES:
        if role not in pairs:
            raise MissingKeyError(f"`pairs` has no column {role!r}; found {list(pairs)}.")
    if not len(pairs):
        raise ValueError("`pairs` is empty; it needs at least one row with a source and a target.")
    if n_incomplete := int(pairs[ROLES].isna().any(axis=1).sum()):
        raise ValueError(f"{n_incomplete} of {len(pairs)} pairs have no source or no target.")
    return pairs[ROLES].astype(str).drop_duplicates()
