"""How well labelled spots are told: scores over all spots, by class and by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

N_BINS = 10  # of confidence, for the calibration error


@dataclass(frozen=True)
class AnnotationReport:
    """How well labelled spots were told by a probe that had not seen their group.

    Attributes
    ----------
    accuracy
        Share of labelled spots told right.
    balanced_accuracy
        Mean over the classes of the share told right.
    macro_f1
        Mean over the classes of F1.
    majority_accuracy
        Accuracy of naming, for every spot, the commonest label outside its group: what a probe must beat.
    share_kept, accuracy_kept
        Share of labelled spots whose confidence reaches the threshold, and the accuracy on them.
    calibration_error
        Expected calibration error: mean difference of confidence and accuracy over ten bins of equal width. Above some
        0.1 the confidence is not to be read as a probability.
    per_class
        Precision, recall, F1, number of labelled spots, and of groups that have the class. A class that only one group
        has cannot be told there.
    per_group
        Number of labelled spots, accuracy, balanced accuracy, macro-F1 and majority accuracy of every group.
    confusion
        Counts, (true class, predicted class).
    predictions
        For every labelled spot its group, label, prediction and confidence, and the probability of every class, all
        from the fold that left its group out.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=200)
    >>> sagefm.SAGEFM.setup_anndata(adata)
    >>> sc.pp.pca(adata, n_comps=10)
    >>> report = sagefm.tl.annotate(adata, "annotation", use_rep="X_pca")
    >>> report.accuracy > report.majority_accuracy
    True
    >>> report.per_class.columns.tolist()
    ['precision', 'recall', 'f1', 'n', 'n_groups']
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    majority_accuracy: float
    share_kept: float
    accuracy_kept: float
    calibration_error: float
    per_class: pd.DataFrame
    per_group: pd.DataFrame
    confusion: pd.DataFrame
    predictions: pd.DataFrame

    def __str__(self) -> str:
        return (
            f"{len(self.predictions)} labelled spots, {len(self.per_class)} classes, {len(self.per_group)} groups left "
            f"out in turn: accuracy {self.accuracy:.3f} (majority {self.majority_accuracy:.3f}), balanced accuracy "
            f"{self.balanced_accuracy:.3f}, macro-F1 {self.macro_f1:.3f}; accuracy {self.accuracy_kept:.3f} on the "
            f"{self.share_kept:.0%} above the threshold; calibration error {self.calibration_error:.3f}"
        )


def report_of(predictions: pd.DataFrame, classes: np.ndarray, threshold: float) -> AnnotationReport:
    truth, found = predictions["label"], predictions["prediction"]
    right, kept = truth == found, predictions["confidence"] >= threshold
    by_group = predictions.groupby("group")
    return AnnotationReport(
        **_scores(predictions),
        share_kept=float(kept.mean()),
        accuracy_kept=float(right[kept].mean()) if kept.any() else np.nan,
        calibration_error=_calibration_error(predictions["confidence"], right),
        per_class=_per_class(predictions, classes),
        per_group=pd.DataFrame({name: {"n": len(spots), **_scores(spots)} for name, spots in by_group}).T,
        confusion=pd.DataFrame(confusion_matrix(truth, found, labels=classes), index=classes, columns=classes),
        predictions=predictions.drop(columns="majority"),
    )


def _scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Score over the classes that the labels have; a class that is only predicted has no recall."""
    truth, found = predictions["label"], predictions["prediction"]
    present = np.unique(truth)
    _, recall, f1, _ = precision_recall_fscore_support(truth, found, labels=present, zero_division=0)
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "majority_accuracy": float((truth == predictions["majority"]).mean()),
    }


def _per_class(predictions: pd.DataFrame, classes: np.ndarray) -> pd.DataFrame:
    truth, found = predictions["label"], predictions["prediction"]
    scores = precision_recall_fscore_support(truth, found, labels=classes, zero_division=0)
    table = pd.DataFrame(dict(zip(("precision", "recall", "f1", "n"), scores, strict=True)), index=classes)
    return table.assign(n_groups=predictions.groupby("label")["group"].nunique())


def _calibration_error(confidence: pd.Series, right: pd.Series) -> float:
    spots = pd.DataFrame({"confidence": confidence, "right": right})
    bins = spots.groupby(np.minimum((confidence * N_BINS).astype(int), N_BINS - 1))
    gaps = (bins["confidence"].mean() - bins["right"].mean()).abs()
    return float((gaps * bins.size()).sum() / len(spots))
