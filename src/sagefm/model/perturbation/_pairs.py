"""Pairs of a source and a target, complexes included, checked against the genes that the model knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm.data import positions_of

ROLES = ["source", "target"]


class Pairs:
    """Pairs to perturb and read.

    Parameters
    ----------
    table
        Columns `source` and `target`, each pair once.
    parts
        For each name in the table the positions of its genes in the model's order: several for a complex.
    """

    def __init__(self, table: pd.DataFrame, parts: dict[str, np.ndarray]) -> None:
        self.table, self.parts = table, parts

    @classmethod
    def of(
        cls,
        sources: Sequence[str] | str | None,
        targets: Sequence[str] | str | None,
        pairs: pd.DataFrame | None,
        vocabulary: pd.Index,
    ) -> Pairs:
        """Read what a user asked for, or say what is wrong with it."""
        if pairs is not None:
            if sources is not None or targets is not None:
                raise ValueError("Give either `pairs`, or `sources` and `targets`; not both.")
            table = _checked(pairs)
        elif sources is None or targets is None:
            raise ValueError("Give `sources` and `targets`, or `pairs`: a table with columns 'source' and 'target'.")
        else:
            table = _combinations(sources, targets)
        names = pd.unique(table[ROLES].to_numpy().ravel())
        positions_of(pd.unique(np.array([part for name in names for part in split(name, vocabulary)])), vocabulary)
        parts = {name: vocabulary.get_indexer(pd.Index(split(name, vocabulary))) for name in names}
        overlap = np.array([shares_a_gene(parts[s], parts[t]) for s, t in table.itertuples(index=False)])
        if overlap.any() and (pairs is not None or overlap.all()):
            source, target = table[overlap].iloc[0]
            raise ValueError(
                f"{overlap.sum()} of {len(table)} pairs have a source that is, or shares a gene with, its target, for "
                f"example {source!r} and {target!r}: the gene cannot be set and predicted at once. Remove them."
            )
        return cls(table[~overlap].reset_index(drop=True), parts)

    @property
    def genes(self) -> np.ndarray:
        """Positions of all genes in the table, ascending."""
        return np.unique(np.concatenate([self.parts[name] for name in pd.unique(self.table.to_numpy().ravel())]))

    def by(self, role: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each source, or target, with the positions of its pairs."""
        for name, pairs in self.table.groupby(role, sort=False).indices.items():
            yield str(name), np.asarray(pairs)

    def parts_of(self, role: str, pairs: np.ndarray) -> list[np.ndarray]:
        """Return the parts of the source, or target, of some pairs."""
        return [self.parts[name] for name in self.table[role].iloc[pairs]]

    def mean_over_parts(self, role: str, values: np.ndarray) -> np.ndarray:
        """Return the mean of a value of each gene over the parts of each pair's source, or target, (pairs,)."""
        return np.array([values[self.parts[name]].mean() for name in self.table[role]])


def split(name: str, vocabulary: pd.Index) -> list[str]:
    """Return the parts of a complex `"A_B"`, each once; a name that is a gene is not taken apart."""
    return [name] if name in vocabulary else list(dict.fromkeys(name.split("_")))


def shares_a_gene(source: Iterable, target: Iterable) -> bool:
    """Tell whether two lists of parts have one in common."""
    return not set(source).isdisjoint(target)


def _combinations(sources: Sequence[str] | str, targets: Sequence[str] | str) -> pd.DataFrame:
    lists = [[names] if isinstance(names, str) else list(names) for names in (sources, targets)]
    for role, names in zip(ROLES, lists, strict=True):
        if not names:
            raise ValueError(f"`{role}s` is empty; name at least one gene.")
    return pd.MultiIndex.from_product(lists, names=ROLES).to_frame(index=False).astype(str).drop_duplicates()


def _checked(pairs: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(f"`pairs` is a DataFrame with columns 'source' and 'target'; found {type(pairs).__name__}.")
    missing = [role for role in ROLES if role not in pairs]
    if missing:
        raise MissingKeyError(f"`pairs` has no column {missing[0]!r}; it has {list(pairs)}.")
    if not len(pairs):
        raise ValueError("`pairs` is empty; it needs at least one row with a source and a target.")
    if pairs[ROLES].isna().any(axis=None):
        raise ValueError(
            f"{int(pairs[ROLES].isna().any(axis=1).sum())} of {len(pairs)} pairs miss a source or a target."
        )
    return pairs[ROLES].astype(str).drop_duplicates()
