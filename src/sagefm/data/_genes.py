"""The gene vocabulary: names are checked, matched and covered, never guessed by position."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm._errors import MissingKeyError

MIN_COVERAGE = 0.1
_VERSION = r"(?<=\d)\.\d+$"  # ENSG00000141510.18


def gene_names(adata: AnnData, gene_symbols: str | None) -> pd.Index:
    """Return the names that identify the genes: `var_names`, or the var column `gene_symbols`."""
    if gene_symbols is None:
        names = pd.Index(adata.var_names.astype(str))
    elif gene_symbols in adata.var:
        names = pd.Index(adata.var[gene_symbols].astype(str))
    else:
        raise MissingKeyError(
            f"gene_symbols={gene_symbols!r} is not a column of var; it has {list(adata.var.columns)}."
        )
    where = "var_names" if gene_symbols is None else f"var[{gene_symbols!r}]"
    refuse_duplicates(names, f"gene names in {where}", "adata.var_names_make_unique()")
    return names


def refuse_duplicates(names: pd.Index, what: str, remedy: str) -> None:
    """Raise if a name stands twice."""
    doubles = names[names.duplicated()].unique()
    if len(doubles):
        raise ValueError(f"{len(doubles)} {what} stand more than once, for example {doubles[0]!r}. Try `{remedy}`.")


def match_genes(model_genes: pd.Index, section_genes: pd.Index) -> np.ndarray:
    """Return, for every gene of the model, its column in the section, or -1 where the section's panel lacks it."""
    columns = section_genes.get_indexer(model_genes)
    coverage = float((columns >= 0).mean())
    if coverage < MIN_COVERAGE:
        raise ValueError(
            f"The section has {int((columns >= 0).sum())} of the {len(model_genes)} genes that the model knows "
            f"({coverage:.1%}); at least {MIN_COVERAGE:.0%} are needed. The model's genes look like "
            f"{list(model_genes[:3])}, the section's like {list(section_genes[:3])}."
            + _hint(model_genes, section_genes)
        )
    return columns


def _hint(model_genes: pd.Index, section_genes: pd.Index) -> str:
    if _agree_by(str.upper, model_genes, section_genes):
        return (
            " Many names agree but for upper and lower case, as mouse symbols do with human ones; map them to the "
            "orthologues of the model's species first."
        )
    if _agree_by(lambda name: re.sub(_VERSION, "", name), model_genes, section_genes):
        return (
            " Many names agree but for the version after the dot; take it off both with "
            "`adata.var_names = adata.var_names.str.split('.').str[0]`."
        )
    if section_genes.isin(model_genes).sum() > len(section_genes) / 2:
        return " The names agree, but the panel is small: train a model on the section itself, `SAGEFM(adata)`."
    return " If the names stand in a column of var, pass it as `gene_symbols`."


def _agree_by(change: Callable[[str], str], model_genes: pd.Index, section_genes: pd.Index) -> bool:
    """Tell whether a quarter of the section's names become names of the model by a change of both."""
    become = section_genes.map(change).isin(model_genes.map(change)) & ~section_genes.isin(model_genes)
    return bool(become.sum() >= max(len(section_genes) / 4, 1))


def positions_of(genes: Iterable[str], vocabulary: pd.Index) -> np.ndarray:
    """Return the positions of `genes` in `vocabulary`; an unknown gene is an error that offers close names."""
    genes = pd.Index([genes] if isinstance(genes, str) else list(map(str, genes)))
    if not len(genes):
        raise ValueError("`genes` is empty; name at least one gene.")
    refuse_duplicates(genes, "of the asked genes", "list(dict.fromkeys(genes))")
    positions = vocabulary.get_indexer(genes)
    unknown = genes[positions < 0]
    if len(unknown):
        raise MissingKeyError(
            f"The model does not know {len(unknown)} of the {len(genes)} asked genes: "
            f"{_with_offers(unknown[:5], vocabulary)}."
        )
    return positions


def _with_offers(unknown: pd.Index, vocabulary: pd.Index) -> str:
    by_upper_case = pd.Series(vocabulary, index=vocabulary.str.upper())
    offers = []
    for gene in unknown:
        close = get_close_matches(gene.upper(), by_upper_case.index, n=3)
        names = ", ".join(dict.fromkeys(by_upper_case.loc[close]))
        offers.append(f"{gene!r} (did you mean {names}?)" if close else f"{gene!r}")
    return "; ".join(offers)
