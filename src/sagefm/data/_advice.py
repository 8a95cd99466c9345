"""Advice about counts: where the raw counts are, features that are not genes, and genes that were not measured."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import settings

from sagefm.data._counts import OUTER_JOIN, read_rows
from sagefm.data._selection import data_frame

# Columns of `var` and values for genes, in lower case, as 10x Genomics' readers and others write them.
_FEATURE_COLUMNS, _GENES = ("feature_types", "feature_type"), ("gene expression", "gene", "genes", "gex", "rna")
# A gene without a count in a section, in which this many were expected, was probably not measured there. In sections
# of one tissue and panel, at most 0.02 % of the genes are such (7 brain and 8 breast sections), in panels that differ
# 0.8 % and more; where tissues differ, genes that are just not expressed may be up to 1.6 %.
_MIN_EXPECTED, _MIN_GENES, _MIN_SHARE = 50, 3, 0.005


def where_counts_are(adata: AnnData, layer: str | None) -> str:
    """Return what to pass in place of `layer`, where `adata` has whole numbers elsewhere, as half a sentence."""
    found = [name for name in adata.layers if name not in (layer, None) and _are_counts(adata.layers[name])]
    if len(found) == 1:
        return f"pass `layer={found[0]!r}`, which holds whole numbers"
    if found:
        return f"pass the layer of the raw counts as `layer`, one of {found}, which hold whole numbers"
    if layer is not None and adata.X is not None and _are_counts(adata.X):
        return "leave out `layer`: X holds whole numbers"
    if adata.raw is not None and _are_counts(adata.raw.X):
        return "use the whole numbers in adata.raw: `adata = adata.raw.to_adata()`"
    return "pass the layer of the raw counts as `layer`"


def _are_counts(matrix: Any) -> bool:
    """Whether the first rows hold whole numbers above 1, and none below 0."""
    if matrix.dtype.kind not in "iuf":
        return False
    values = read_rows(matrix, slice(0, 256)).data
    return bool(len(values) and values.min() >= 0 and values.max() > 1 and not (values % 1).any())


def warn_of_other_features(adata: AnnData, totals: np.ndarray) -> None:
    """Warn if some features are not genes; `totals` are their counts, (features,)."""
    var = data_frame(adata.var)
    for column in filter(var.__contains__, _FEATURE_COLUMNS):
        kinds = var[column].astype(object)
        is_gene = kinds.astype(str).str.lower().isin(_GENES).to_numpy()
        others = ~is_gene & kinds.notna().to_numpy()
        if is_gene.any() and others.any():
            found = ", ".join(map(repr, kinds[others].unique()))
            line = f"adata = adata[:, adata.var[{column!r}] == {kinds[is_gene].iloc[0]!r}].copy()"
            warnings.warn(
                f"{others.sum()} of {len(kinds)} features are not genes (var[{column!r}] is {found}), but hold "
                f"{totals[others].sum() / totals.sum():.0%} of the counts: library sizes and predictions depend on "
                f"them. To leave them out: `{line}`.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
            return


def warn_of_unmeasured(totals: np.ndarray, sections: np.ndarray, genes: pd.Index) -> None:
    """Warn if many genes have no count in one of the `sections` and many in others; totals are (sections, genes)."""
    depth = totals.sum(axis=1, keepdims=True)
    share = (totals.sum(axis=0) - totals) / np.maximum(depth.sum() - depth, 1)  # in the other sections
    missing = (totals == 0) & (share * depth >= _MIN_EXPECTED)
    section, n_missing = int(missing.sum(axis=1).argmax()), missing.sum(axis=1)
    if n_missing[section] < max(_MIN_GENES, _MIN_SHARE * len(genes)):
        return
    gene = int((share[section] * missing[section]).argmax())
    warnings.warn(
        f"{n_missing[section]} of {len(genes)} genes have no count in section {str(sections[section])!r}, although at "
        f"least {_MIN_EXPECTED} of each were expected from the other sections; for example {genes[gene]!r}, with "
        f"{totals[:, gene].sum():.0f} counts there. Ignore this if they are not expressed in it. {OUTER_JOIN}",
        UserWarning,
        stacklevel=settings.warnings_stacklevel,
    )
