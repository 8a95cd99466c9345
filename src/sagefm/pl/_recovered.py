"""Measured and recovered expression of genes, next to each other on the tissue."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from sagefm._errors import MissingKeyError, refuse_unknown
from sagefm.data import gene_names, obs_column, read_rows
from sagefm.pl._maps import draw_maps, panel_grid, sections_of

Scale = Literal["log1p", "linear", "counts"]
_MOST_GENES = 20  # drawn without being asked for by name
_PERCENTILES = (1, 99)  # of all values of a gene, at the ends of its colour scale


def recovered(
    adata: AnnData,
    predicted: pd.DataFrame | str,
    genes: Sequence[str] | str | None = None,
    *,
    layer: str | None = None,
    sample_key: str | None = None,
    spatial_key: str = "spatial",
    gene_symbols: str | None = None,
    scale: Scale | None = None,
    target_sum: float | None = None,
    ncols: int = 4,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Map measured and recovered expression of genes on the tissue, next to each other.

    Both are drawn as log-normalised expression, on one colour scale for each gene, from the 1st to the 99th percentile
    of all its values. Spots of a gene that is not in `adata` are grey where the measured ones would be.

    The title has the correlation of the two within the section, unless the model was trained on any of the spots. To
    score a model on the spots of its own section that were held out, use :meth:`sagefm.SAGEFM.get_masked_recovery`, or
    pass them as `indices` to :meth:`sagefm.SAGEFM.impute_masked`. Weights read by
    :meth:`sagefm.SAGEFM.from_pretrained` do not know the spots that they were trained on.

    Parameters
    ----------
    adata
        Spots with coordinates and raw counts.
    predicted
        Result of :meth:`sagefm.SAGEFM.impute_masked` or :meth:`sagefm.SAGEFM.get_normalized_expression` for all or
        some of these spots; or the key in `layers` or `obsm` of such predictions. A layer, and what was read from a
        file, has no correlation in the title, because it does not say how it was made.
    genes
        Genes to draw, up to 20 by default all that were predicted.
    layer
        Layer with the raw counts. Defaults to `X`.
    sample_key, spatial_key
        As in :func:`sagefm.pl.domains`.
    gene_symbols
        Column of `var` with the gene names. Defaults to `var_names`.
    scale
        Scale of `predicted`: `"log1p"` and `"linear"` of expression scaled to `target_sum`, or expected `"counts"`.
        By default what `predicted` says, and `"log1p"` if it does not.
    target_sum
        Sum to which the counts of every spot are scaled. By default what `predicted` says, and the median over the
        spots if it does not.
    ncols
        Most panels in a row, at least 2.
    axes
        Axes to draw on, two for each gene and section; new ones by default.

    Returns
    -------
    numpy.ndarray
        :class:`matplotlib.axes.Axes`, (genes x sections, 2): measured, recovered.

    Raises
    ------
    KeyError
        If a key does not exist, a gene was not predicted, or no spot of `predicted` is in `adata`.
    ValueError
        If more than 20 genes were predicted and `genes` is not given, or the number of `axes` is not that of the
        panels.

    Examples
    --------
    >>> found = model.impute_masked(genes=["GENE0001", "GENE0002"])
    >>> sagefm.pl.recovered(adata, found).shape
    (2, 2)
    """
    frame = _stored_frame(adata, predicted, gene_symbols) if isinstance(predicted, str) else predicted
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`predicted` must be a DataFrame, or a key of one; found {type(frame).__name__}.")
    chosen = _chosen(frame, genes)
    measured, found = _on_one_scale(adata, frame, chosen, layer, gene_symbols, scale, target_sum)
    sections = sections_of(adata, sample_key, spatial_key)
    grid = panel_grid(axes, 2 * len(chosen) * len(sections), 1, max(ncols // 2 * 2, 2)).reshape(-1, 2)
    for number, (gene, panels) in enumerate(zip(chosen, np.split(grid, len(chosen)), strict=True)):
        pair = pd.DataFrame({"measured": measured[:, number], "recovered": found[:, number]}, adata.obs_names)
        _draw_pair(adata, gene, pair, sample_key, spatial_key, panels)
        if frame.attrs.get("spots") in ("held out", "new"):
            _add_r(pair, sections, panels[:, 1])
    return grid


def _stored_frame(adata: AnnData, key: str, gene_symbols: str | None) -> pd.DataFrame:
    """Return the predictions in a layer or in `obsm`."""
    if key in adata.obsm:
        return adata.obsm[key]
    if key not in adata.layers:
        keys = [*sorted(adata.layers), *sorted(adata.obsm)]
        raise MissingKeyError(f"predicted={key!r} is in neither layers nor obsm; there are {keys}.")
    stored = adata.layers[key]
    values = stored.toarray() if hasattr(stored, "toarray") else np.asarray(stored)
    return pd.DataFrame(values, adata.obs_names, gene_names(adata, gene_symbols))


def _chosen(frame: pd.DataFrame, genes: Sequence[str] | str | None) -> list[str]:
    """Return the genes to draw."""
    if genes is None and frame.shape[1] > _MOST_GENES:
        raise ValueError(f"There are predictions of {frame.shape[1]:,} genes; choose some, as in `genes=['CD3E']`.")
    chosen = list(frame.columns) if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    if missing := [gene for gene in chosen if gene not in frame]:
        raise MissingKeyError(f"{missing[0]!r} is not among the {frame.shape[1]:,} predicted genes.")
    return chosen


def _on_one_scale(
    adata: AnnData,
    frame: pd.DataFrame,
    genes: list[str],
    layer: str | None,
    gene_symbols: str | None,
    scale: Scale | None,
    target_sum: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return measured and predicted values of genes on the same log scale, each (spots, genes)."""
    found = frame[genes].reindex(adata.obs_names).to_numpy(dtype=float)
    if np.isnan(found).all():
        raise MissingKeyError("No spot of `predicted` is in `adata`; pass the AnnData that it was computed for.")
    counts = _counts(adata, layer)
    median = float(np.median(np.asarray(counts.sum(axis=1))))
    scale = frame.attrs.get("scale", "log1p") if scale is None else scale
    target_sum = frame.attrs.get("target_sum", median) if target_sum is None else target_sum
    refuse_unknown("scale", scale, get_args(Scale))
    columns = gene_names(adata, gene_symbols).get_indexer(pd.Index(genes))
    measured = _measured(counts, columns, {"log1p": target_sum, "linear": median, "counts": None}[scale])
    if scale == "log1p":
        return measured, found
    return measured, np.log1p(found * (median / target_sum if scale == "linear" else 1))


def _counts(adata: AnnData, layer: str | None) -> sp.csr_matrix:
    if layer is not None and layer not in adata.layers:
        raise MissingKeyError(f"layer={layer!r} is not in layers; there are {sorted(adata.layers)}.")
    if layer is None and adata.X is None:
        raise MissingKeyError(f"adata has no X; pass the layer with the raw counts, one of {sorted(adata.layers)}.")
    return read_rows(adata.X if layer is None else adata.layers[layer], slice(None))


def _measured(counts: sp.csr_matrix, columns: np.ndarray, target_sum: float | None) -> np.ndarray:
    """Return `log1p` of counts, scaled to `target_sum` unless that is None, (spots, columns); NaN for column -1."""
    total = np.asarray(counts.sum(axis=1), dtype=float)
    factor = 1 if target_sum is None else target_sum / np.where(total > 0, total, 1)
    values = np.full((counts.shape[0], len(columns)), np.nan)
    known = columns >= 0
    values[:, known] = np.log1p(counts[:, columns[known]].toarray() * factor)
    return values


def _draw_pair(
    adata: AnnData, gene: str, pair: pd.DataFrame, sample_key: str | None, spatial_key: str, panels: np.ndarray
) -> None:
    """Draw the two columns of `pair` on one colour scale, each section on its own panels, (sections, 2)."""
    low, high = np.nanpercentile(pair, _PERCENTILES)
    section = {} if sample_key is None else {"section": obs_column(adata, sample_key, "sample_key")}
    labels = ["not measured" if pair["measured"].isna().all() else "measured", "recovered"]
    names = [f"{gene}, {label}" for label in labels]
    light = AnnData(obs=pair.set_axis(names, axis=1).assign(**section), obsm=dict(adata.obsm))
    norm = Normalize(low, max(high, low + 1e-12))
    draw_maps(light, names, None if sample_key is None else "section", spatial_key, 2, panels, norm=norm)
    for ax in panels.ravel():
        ax.collections[0].colorbar.set_label("log1p")


def _add_r(pair: pd.DataFrame, sections: dict[str, np.ndarray], panels: np.ndarray) -> None:
    """Add the correlation within each section to the titles of its panel."""
    for rows, ax in zip(sections.values(), panels, strict=True):
        r = pair["measured"].iloc[rows].corr(pair["recovered"].iloc[rows])
        if np.isfinite(r):
            ax.set_title(f"{ax.get_title()}\nr = {r:.2f}")
