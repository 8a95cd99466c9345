"""Gene names: checked and matched between model and section, never guessed by position."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm._errors import GeneMismatchError, MissingKeyError
from sagefm.data._selection import data_frame

# A section is accepted with this share of the model's genes, with this many of them, or with fewer if they are half of
# its panel. Below that, predictions may be worse than the mean of the neighbours, and below `FEW_GENES` they are weaker
# than with all genes (benchmarks/pretraining/small_panels.py).
MIN_COVERAGE, MIN_GENES, MIN_GENES_OF_PANEL, FEW_GENES = 0.1, 200, 100, 1000
_ENSEMBL = {"human": r"ENSG\d{11}(\.\d+)?", "mouse": r"ENSMUSG\d{11}(\.\d+)?"}
# How names of the section may differ from the model's, and what removes the difference.
_DIFFERENCES = {
    "letter case, as mouse and human symbols do; map them to orthologues of the model's species first": str.upper,
    "the version after the dot; remove it from both with `adata.var_names = adata.var_names.str.split('.').str[0]`": (
        lambda name: re.sub(r"(?<=\d)\.\d+$", "", name)  # ENSG00000141510.18
    ),
}


def gene_names(adata: AnnData, gene_symbols: str | None) -> pd.Index:
    """Return the names that identify the genes: `var_names`, or the var column `gene_symbols`."""
    names = possibly_duplicated_names(adata, gene_symbols)
    if gene_symbols is None:
        refuse_duplicates(names, "gene names in var_names", "adata.var_names_make_unique()")
    elif not names.is_unique:
        refuse_duplicates(names, f"gene names in var[{gene_symbols!r}]", **_remedy_for_symbols(adata, gene_symbols))
    return names


def _remedy_for_symbols(adata: AnnData, gene_symbols: str) -> dict[str, str]:
    """Return a line of code towards unique names, and its effect."""
    if not adata.var_names.is_unique:
        return {
            "remedy": "adata.var_names_make_unique()",
            "effect": " first: genes without a symbol are named by these",
        }
    symbols = data_frame(adata.var)[gene_symbols].astype(object)
    if not _with_gaps_filled(symbols.where(~symbols.duplicated(), adata.var_names), adata.var_names).is_unique:
        effect = ": genes without a symbol are named by var_names, some of which are symbols of other genes"
        return {"remedy": "adata.var_names = 'id:' + adata.var_names", "effect": effect}
    column = f"adata.var[{gene_symbols!r}]"
    line = f"{column} = {column}.astype(object).where(~{column}.duplicated(), adata.var_names)"
    return {"remedy": line, "effect": ": the first gene of each name keeps it, and the others are named by var_names"}


def possibly_duplicated_names(adata: AnnData, gene_symbols: str | None) -> pd.Index:
    """Return the names of the genes, which may appear more than once; one without a symbol is named by `var_names`."""
    if gene_symbols is None:
        return pd.Index(adata.var_names.astype(str))
    var = data_frame(adata.var)
    if gene_symbols not in var:
        raise MissingKeyError(f"gene_symbols={gene_symbols!r} is not a column of var; found {list(var)}.")
    return _with_gaps_filled(var[gene_symbols].astype(object), adata.var_names)


def _with_gaps_filled(symbols: pd.Series, var_names: pd.Index) -> pd.Index:
    missing = symbols.isna() | (symbols.astype(str).str.strip() == "")
    return pd.Index(symbols.where(~missing, var_names).astype(str))


def refuse_duplicates(names: pd.Index, what: str, remedy: str, effect: str = "") -> None:
    """Raise if a name appears more than once; `effect` says what the `remedy` does."""
    duplicates = names[names.duplicated()].unique()
    if n := len(duplicates):
        raise ValueError(
            f"Some {what} appear more than once ({n}, for example {duplicates[0]!r}). Use `{remedy}`{effect}."
        )


def match_genes(model_genes: pd.Index, section_genes: pd.Index) -> np.ndarray:
    """Return the column in the section of every gene of the model, or -1 for a gene missing from the panel."""
    columns = section_genes.get_indexer(model_genes)
    n_known, coverage = int((columns >= 0).sum()), float((columns >= 0).mean())
    needed = MIN_GENES if n_known < len(section_genes) / 2 else MIN_GENES_OF_PANEL
    if coverage < MIN_COVERAGE and n_known < needed:
        raise GeneMismatchError(
            f"The section has {n_known} of the model's {len(model_genes)} genes ({coverage:.1%}); at least "
            f"{MIN_COVERAGE:.0%}, or {MIN_GENES} genes, are needed ({MIN_GENES_OF_PANEL} if they are half of the "
            f"section's). Of the section's own {len(section_genes)} genes, the model knows "
            f"{section_genes.isin(model_genes).mean():.0%}. The model's genes look like {list(model_genes[:3])}, the "
            f"section's like {list(section_genes[:3])}. {_hint(model_genes, section_genes)}"
        )
    return columns


def _hint(model_genes: pd.Index, section_genes: pd.Index) -> str:
    known = section_genes.isin(model_genes)
    for difference, remove in _DIFFERENCES.items():
        n_more = int((section_genes.map(remove).isin(model_genes.map(remove)) & ~known).sum())
        if n_more >= max(len(section_genes) / 4, 1):
            return f"Many names match except for {difference}."
    if known.mean() > 0.25:
        return "The names match, but the panel is small: train a model on the section itself, `SAGEFM(adata)`."
    for species, identifier in _ENSEMBL.items():
        if section_genes.str.fullmatch(identifier).mean() > 0.5 and not model_genes.str.fullmatch(identifier).any():
            return (
                f"The section's names are Ensembl identifiers of {species} genes, the model's are symbols. Pass the "
                "column of var that holds the symbols as `gene_symbols`."
            )
    return "If a column of var holds the gene names, pass it as `gene_symbols`."


def positions_of(genes: Iterable[str], vocabulary: pd.Index) -> np.ndarray:
    """Return the positions of `genes` in `vocabulary`; the error for an unknown gene suggests close names."""
    genes = pd.Index([genes] if isinstance(genes, str) else list(map(str, genes)))
    if not len(genes):
        raise ValueError("`genes` is empty; pass at least one gene.")
    refuse_duplicates(genes, "of the requested genes", "list(dict.fromkeys(genes))")
    positions = vocabulary.get_indexer(genes)
    unknown = genes[positions < 0]
    if n := len(unknown):
        raise MissingKeyError(
            f"{n} of {len(genes)} requested genes {'is' if n == 1 else 'are'} not in the model: "
            f"{_with_close_names(unknown[:5], vocabulary)}."
        )
    return positions


def _with_close_names(unknown: pd.Index, vocabulary: pd.Index) -> str:
    by_upper_case = pd.Series(vocabulary, index=vocabulary.str.upper())
    described = []
    for gene in unknown:
        close = get_close_matches(gene.upper(), by_upper_case.index, n=3)
        names = ", ".join(dict.fromkeys(by_upper_case.loc[close]))
        described.append(f"{gene!r} (did you mean {names}?)" if close else f"{gene!r}")
    return "; ".join(described)
