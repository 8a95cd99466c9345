"""Confusion matrix of annotated and predicted labels."""

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from sagefm.data import obs_column
from sagefm.pl._style import SEQUENTIAL, new_axes
from sagefm.tl import AnnotationReport


def confusion(
    data: AnnData | AnnotationReport,
    labels_key: str | None = None,
    predicted_key: str | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Plot how often spots of each annotated label were predicted as each label.

    Numbers in the cells are spots; colours are their share of the row, that is of the spots with that annotation. The
    title has the share of spots on the diagonal.

    Parameters
    ----------
    data
        The report that :func:`sagefm.tl.annotate` or :func:`sagefm.tl.map_query` returns, whose predictions are
        cross-validated; or an AnnData with two columns of `obs` to compare, for example a query with an annotation of
        its own.
    labels_key
        Column of `obs` with the annotation. Only with an AnnData.
    predicted_key
        Column of `obs` with the predictions, by default `f"{labels_key}_predicted"`. Spots that lack either label are
        left out, and so are those whose label was given and not predicted: their confidence in
        `obs[f"{predicted_key}_confidence"]`, if there is such a column, is NaN.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    TypeError
        If `data` is neither a report nor an AnnData with a `labels_key`.
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If no spot has both an annotation and a prediction.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> report = sagefm.tl.annotate(adata, "annotation", use_rep="X_pca")
    >>> sagefm.pl.confusion(report).get_ylabel()
    'annotated'
    """
    if isinstance(data, AnnotationReport):
        counts = data.confusion
    elif isinstance(data, AnnData) and labels_key is not None:
        counts = _counts(data, labels_key, predicted_key or f"{labels_key}_predicted")
    else:
        raise TypeError(
            "Pass the report of `sagefm.tl.annotate` or `sagefm.tl.map_query`, or an AnnData and the column of obs "
            f"with the annotation, `labels_key`; found {type(data).__name__} and labels_key={labels_key!r}."
        )
    return _draw(counts, new_axes() if ax is None else ax)


def _counts(adata: AnnData, labels_key: str, predicted_key: str) -> pd.DataFrame:
    """Return the number of spots of each annotated (row) and predicted (column) label."""
    columns = {"annotated": (labels_key, "labels_key"), "predicted": (predicted_key, "predicted_key")}
    labels = pd.DataFrame({name: obs_column(adata, *column).astype(object) for name, column in columns.items()})
    if (confidence := f"{predicted_key}_confidence") in adata.obs:
        labels = labels[adata.obs[confidence].notna()]
    labels = labels.dropna().astype(str)
    labels = labels[(labels != "").all(axis=1)]
    if labels.empty:
        raise ValueError(
            f"No spot has both an annotation in obs[{labels_key!r}] and a prediction in obs[{predicted_key!r}]. After "
            "`sagefm.tl.annotate`, pass the report that it returns: it has cross-validated predictions."
        )
    classes = np.unique(labels)
    return pd.DataFrame(confusion_matrix(*labels.to_numpy().T, labels=classes), classes, classes)


def _draw(counts: pd.DataFrame, ax: Axes) -> Axes:
    n_spots = counts.sum(axis=1)
    shares = counts.div(n_spots.where(n_spots > 0), axis=0).fillna(0)
    display = ConfusionMatrixDisplay(shares.to_numpy(), display_labels=counts.index)
    display.plot(ax=ax, cmap=SEQUENTIAL, colorbar=False, im_kw={"vmin": 0, "vmax": 1}, xticks_rotation=90)
    for text, count in zip(display.text_.ravel(), counts.to_numpy().ravel(), strict=True):
        text.set_text(f"{count:,}" if count else "")
    ax.figure.colorbar(display.im_, ax=ax, label="share of the annotated spots", fraction=0.046, pad=0.03)
    share = np.trace(counts.to_numpy()) / n_spots.sum()
    ax.set(xlabel="predicted", ylabel="annotated", title=f"{share:.0%} of {n_spots.sum():,} spots agree")
    return ax
