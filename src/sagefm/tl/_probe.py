"""A probe on a frozen representation: its features, its cross-validation by patient, and what it writes."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.base import ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sagefm._errors import MissingKeyError
from sagefm.data import obs_column
from sagefm.tl._inputs import as_numbers, groups, neighborhood_means, representation, scaled_within
from sagefm.tl._report import AnnotationReport, report_of

N_BLOCKS = 5  # blocks of tissue for cross-validation without patients
# C of scikit-learn's logistic regression. Across patients, 0.01 is both more accurate and better calibrated than 1.
REGULARIZATION = 0.01


class ProbeSettings(NamedTuple):
    """Arguments that `annotate` and `map_query` share; without a `neighbors_key`, spots are used on their own."""

    use_rep: str
    scale_by: str | None
    neighbors_key: str | None
    classifier: ClassifierMixin | None
    threshold: float

    def features(self, adata: AnnData, values: np.ndarray, embedded: np.ndarray) -> np.ndarray:
        """Return the features of the probe, (spots, features), from the representation, (spots, dimensions)."""
        if self.scale_by is not None:
            values = scaled_within(values, groups(adata, self.scale_by, "scale_by"))
        if self.neighbors_key is None:
            return values
        means = neighborhood_means(adata, values, embedded, self.neighbors_key, sample_key=None, rounds=1)
        return np.hstack([values, means])


class Probe:
    """A probe that is trained on the labelled spots of an AnnData, and cross-validated by group or block of tissue.

    Attributes
    ----------
    labels
        Labels of all spots, missing for unlabelled ones.
    unlabelled
        Spots that have a representation and no label, boolean (spots,).
    features
        (spots, features).
    report
        Scores of the cross-validation.
    """

    def __init__(
        self, adata: AnnData, labels_key: str, settings: ProbeSettings, *, group_key: str | None, seed: int
    ) -> None:
        if not 0 <= settings.threshold <= 1:
            raise ValueError(f"threshold={settings.threshold} must lie between 0 and 1.")
        values, embedded = representation(adata, settings.use_rep)
        self.labels = _labels(adata, labels_key)
        labelled = embedded & self.labels.notna().to_numpy()
        truth = self.labels[labelled].astype(str)
        if truth.nunique() < 2:
            raise ValueError(
                f"obs[{labels_key!r}] has {truth.nunique()} class(es) on the {len(truth)} labelled spots that are "
                "embedded; a probe needs at least two."
            )
        group = _groups(adata, group_key, labelled, seed)
        _refuse_one_sided(truth, group, group_key)
        self.unlabelled, self.features = embedded & ~labelled, settings.features(adata, values, embedded)
        self._training = self.features[labelled], truth
        self._pipeline = make_pipeline(
            StandardScaler(), settings.classifier or LogisticRegression(C=REGULARIZATION, max_iter=1000)
        )
        self.report = _cross_validated(self._pipeline, *self._training, group, settings.threshold)

    def probabilities(self, features: np.ndarray, rows: np.ndarray, names: pd.Index) -> pd.DataFrame:
        """Return the probability of every class for the spots in `rows`, boolean (spots,), and NaN for others."""
        values, truth = self._training
        table = pd.DataFrame(np.nan, index=names, columns=self.report.confusion.columns)
        if rows.any():
            fitted = clone(self._pipeline).fit(values, truth.to_numpy(dtype=str))
            table.iloc[np.flatnonzero(rows)] = fitted.predict_proba(features[rows])
        return table


def _labels(adata: AnnData, labels_key: str) -> pd.Series:
    """Return the labels as a column of `obs` gives them, missing where the text is empty."""
    labels = obs_column(adata, labels_key, "labels_key").astype(object)
    return labels.where(labels.astype(str).str.strip() != "")


def _groups(adata: AnnData, group_key: str | None, labelled: np.ndarray, seed: int) -> np.ndarray:
    """Return the cross-validation group of each labelled spot: that of `group_key`, or a compact block of tissue."""
    if group_key is not None:
        return groups(adata, group_key, "group_key")[labelled]
    if "spatial" not in adata.obsm:
        raise MissingKeyError(
            "Cross-validation needs group_key, or obsm['spatial'] to divide the tissue into blocks; obsm has "
            f"{sorted(adata.obsm)}."
        )
    coordinates = as_numbers(adata.obsm["spatial"], "obsm['spatial']")[labelled]
    if n_unplaced := int((~np.isfinite(coordinates).all(axis=1)).sum()):
        raise ValueError(
            f"{n_unplaced} labelled spots have coordinates in obsm['spatial'] that are NaN or infinite, so the tissue "
            "cannot be divided into blocks. Fill them in, leave these spots out, or pass group_key."
        )
    kmeans = KMeans(min(N_BLOCKS, int(labelled.sum())), random_state=seed)
    return kmeans.fit_predict(coordinates).astype(int)


def _refuse_one_sided(labels: pd.Series, group: np.ndarray, group_key: str | None) -> None:
    """Raise if the spots outside some group are too few, or of too few classes, to train on."""
    names = np.unique(group)
    if len(names) < 2:
        raise ValueError(
            f"All labelled spots belong to one group, {names[0]!r} in obs[{group_key!r}]; without it there is nothing "
            "to train on. Pass group_key=None to leave out blocks of tissue instead."
        )
    for name in names:
        rest = labels[group != name]
        if rest.nunique() < 2:
            raise ValueError(
                f"Outside group {name!r} all labelled spots are {rest.iloc[0]!r}; a probe needs at least two classes. "
                "Label spots of more groups, or pass another group_key."
            )


def _cross_validated(
    probe: ClassifierMixin, values: np.ndarray, labels: pd.Series, group: np.ndarray, threshold: float
) -> AnnotationReport:
    """Score labelled spots, each predicted without its group in training."""
    truth = labels.to_numpy(dtype=str)
    classes = np.unique(truth)
    with warnings.catch_warnings():
        # A class that only one group has is unknown to the fold that leaves it out: its probability is 0 there.
        warnings.filterwarnings("ignore", message="Number of classes in training fold", category=RuntimeWarning)
        probability = cross_val_predict(
            probe, values, truth, groups=group, cv=LeaveOneGroupOut(), method="predict_proba"
        )
    predictions = pd.DataFrame({"group": group, "label": labels, "prediction": classes[probability.argmax(axis=1)]})
    predictions["confidence"] = probability.max(axis=1)
    if taken := [name for name in classes.tolist() if name in {*predictions, "majority"}]:
        raise ValueError(f"A class is called {taken[0]!r}, like a column of the report; rename it.")
    predictions[classes] = probability
    majority = {name: labels[group != name].mode()[0] for name in np.unique(group)}
    return report_of(predictions.assign(majority=predictions["group"].map(majority)), classes, threshold)


def default_key(labels_key: str) -> str:
    """Return the key of predicted labels, which can be written to a file."""
    return f"{labels_key}_predicted".replace("/", "_")


def write_labels(adata: AnnData, labels: pd.Series, probability: pd.DataFrame, threshold: float, key: str) -> None:
    """Write given labels and predictions to `obs[key]`; confidence, probabilities and classes under longer keys."""
    predicted, confidence = probability.notna().any(axis=1), probability.max(axis=1)
    names = labels.where(labels.isna(), labels.astype(str))
    names[predicted] = probability[predicted].idxmax(axis=1)
    names[predicted & (confidence < threshold)] = np.nan
    adata.obs[key] = pd.Categorical(names, categories=np.union1d(probability.columns, names.dropna()))
    adata.obs[f"{key}_confidence"] = confidence
    adata.obsm[f"{key}_probability"] = probability.to_numpy()
    adata.uns[f"{key}_classes"] = probability.columns.to_numpy(dtype=object)
