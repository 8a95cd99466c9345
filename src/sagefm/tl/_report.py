"""Cross-validated scores of an annotation: over all labelled spots, by class and by group."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import metrics

N_BINS = 10  # bins of confidence for the calibration error


@dataclass(frozen=True)
class AnnotationReport:
    """Cross-validated scores of a classifier; every labelled spot is predicted without its group in training.

    Attributes
    ----------
    accuracy
        Fraction of labelled spots classified correctly.
    balanced_accuracy
        Mean over the classes of the fraction classified correctly.
    macro_f1
        Mean over the classes of F1.
    majority_accuracy
        Accuracy of predicting, for every spot, the most common label outside its group: the baseline to beat.
    share_kept, accuracy_kept
        Fraction of labelled spots whose confidence reaches the threshold, and the accuracy on them.
    calibration_error
        Expected calibration error: mean difference between confidence and accuracy over ten bins of equal width. Above
        about 0.1, the confidence should not be interpreted as a probability.
    per_class
        Precision, recall, F1, number of labelled spots, and number of groups that have the class. A class found in one
        group only cannot be predicted there.
    per_group
        Number of labelled spots, accuracy, balanced accuracy, macro-F1 and majority accuracy of every group.
    confusion
        Counts, (true class, predicted class).
    predictions
        Group, label, prediction, confidence and the probability of every class for every labelled spot, all from the
        fold that left out its group.

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
    """Score `predictions`, which have the columns of the report and the `majority` label outside each spot's group."""
    truth, predicted = predictions["label"], predictions["prediction"]
    correct, kept = truth == predicted, predictions["confidence"] >= threshold
    by_class = metrics.precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    per_class = pd.DataFrame(dict(zip(("precision", "recall", "f1", "n"), by_class, strict=True)), index=classes)
    confusion = metrics.confusion_matrix(truth, predicted, labels=classes)
    by_group = predictions.groupby("group")
    return AnnotationReport(
        **_scores(predictions),
        share_kept=float(kept.mean()),
        accuracy_kept=float(correct[kept].mean()),
        calibration_error=_calibration_error(predictions["confidence"], correct),
        per_class=per_class.assign(n_groups=predictions.groupby("label")["group"].nunique()),
        per_group=pd.DataFrame({name: {"n": len(spots), **_scores(spots)} for name, spots in by_group}).T,
        confusion=pd.DataFrame(confusion, index=classes, columns=classes),
        predictions=predictions.drop(columns="majority"),
    )


def _scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Score over the classes among the labels; a class that is only predicted has no recall."""
    truth, predicted = predictions["label"], predictions["prediction"]
    settings = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(metrics.recall_score(truth, predicted, **settings)),
        "macro_f1": float(metrics.f1_score(truth, predicted, **settings)),
        "majority_accuracy": float(metrics.accuracy_score(truth, predictions["majority"])),
    }


def _calibration_error(confidence: pd.Series, correct: pd.Series) -> float:
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return float((confidence - correct).groupby(bins).sum().abs().sum() / len(correct))
