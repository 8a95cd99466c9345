"""Labels for unlabelled spots, from a probe on a frozen representation that is cross-validated by patient."""

import warnings

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
from sagefm.data import obs_column, refuse_unwritable_key
from sagefm.tl._inputs import as_numbers, groups, neighborhood_means, representation, scaled_within
from sagefm.tl._report import AnnotationReport, report_of

N_BLOCKS = 5  # blocks of tissue for cross-validation without patients
# C of scikit-learn's logistic regression. Across patients, 0.01 is both more accurate and better calibrated than 1.
REGULARIZATION = 0.01


def annotate(
    adata: AnnData,
    labels_key: str,
    *,
    use_rep: str = "X_sagefm",
    group_key: str | None = None,
    with_neighbors: bool = True,
    scale_by: str | None = None,
    neighbors_key: str = "spatial",
    classifier: ClassifierMixin | None = None,
    threshold: float = 0.5,
    key_added: str | None = None,
    seed: int = 0,
) -> AnnotationReport:
    """Label the unlabelled spots by a probe trained on the labelled ones.

    The representation is frozen. The features of the probe, a logistic regression on standardised features, are the
    representation of a spot and its mean over the spot and its neighbours. Before it labels any spot, the probe is
    cross-validated on the labelled spots, leaving out one group at a time.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp` if `with_neighbors`. Spots with NaN in
        their row are neither used for training nor labelled.
    labels_key
        Column of `obs` with the labels; missing (NaN, None or an empty text) for unlabelled spots.
    use_rep
        Key in `obsm` of the representation.
    group_key
        Column of `obs` to cross-validate by: the patient if there are several, else the section. Use None for a single
        section: compact blocks of it are left out, and the accuracy of the probe on other tissue remains unknown.
    with_neighbors
        Whether the mean over a spot and its neighbours is a feature as well; False needs no neighbour graph.
    scale_by
        Column of `obs` within whose groups the representation is standardised before anything else, over labelled and
        unlabelled spots. Sections differ in depth and handling, often by more than tissues do: with principal
        components of several sections, pass the section here. Latents of a model that was trained on many patients,
        such as `"human-mini"`, may do better without, because scaling hides differences in composition between
        sections.
    neighbors_key
        Prefix of the neighbour graph's key in `obsp`.
    classifier
        Any scikit-learn classifier with `predict_proba`, for example one with `class_weight="balanced"` for rare
        classes; by default `LogisticRegression(C=0.01, max_iter=1000)`. Spots of a section are far from independent,
        and with scikit-learn's default, the weaker regularisation `C=1`, the probe overfits the patients that it is
        trained on.
    threshold
        Lowest confidence, the probability of the most likely class, at which a label is given; 0 labels every spot.
    key_added
        Where results are stored, by default `f"{labels_key}_predicted"`: in `obs[key_added]` the given label if there
        is one, else the prediction, missing below the threshold; in `obs[f"{key_added}_confidence"]` the confidence in
        predictions, NaN where the label was given; and in `obsm[f"{key_added}_probability"]` the probability of every
        class, (spots, classes), NaN for spots that are not predicted, with the names of the classes in
        `uns[f"{key_added}_classes"]`, where any name can be written to a file.
    seed
        Seed of the blocks of tissue.

    Returns
    -------
    AnnotationReport
        Scores on labelled spots, with `per_class`, `per_group`, `confusion` and `predictions` as tables.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If there are fewer than two classes outside some group, or fewer than two groups, or `threshold` is not between
        0 and 1.

    Examples
    --------
    >>> import sagefm
    >>> import scanpy as sc
    >>> adata = sagefm.datasets.simulated_tissue(20, 20, n_genes=200, n_sections=3)
    >>> sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    >>> sc.pp.pca(adata, n_comps=10)
    >>> adata.obs.loc[adata.obs["sample"] == "section_2", "annotation"] = None
    >>> report = sagefm.tl.annotate(
    ...     adata, "annotation", use_rep="X_pca", group_key="sample", scale_by="sample", threshold=0
    ... )
    >>> len(report.per_group)
    2
    >>> bool(adata.obs["annotation_predicted"].isna().any())
    False
    """
    refuse_unwritable_key(key_added, "key_added")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1.")
    values, embedded = representation(adata, use_rep)
    labels = obs_column(adata, labels_key, "labels_key").astype(object)
    labels = labels.where(labels.astype(str).str.strip() != "")
    labelled = embedded & labels.notna().to_numpy()
    truth = labels[labelled].astype(str)
    if truth.nunique() < 2:
        raise ValueError(
            f"obs[{labels_key!r}] has {truth.nunique()} class(es) on the {len(truth)} labelled spots that are "
            "embedded; a probe needs at least two."
        )
    group = _groups(adata, group_key, labelled, seed)
    _refuse_one_sided(truth, group, group_key)
    if scale_by is not None:
        values = scaled_within(values, groups(adata, scale_by, "scale_by"))
    if with_neighbors:
        means = neighborhood_means(adata, values, embedded, neighbors_key, sample_key=None, rounds=1)
        values = np.hstack([values, means])
    probe = make_pipeline(StandardScaler(), classifier or LogisticRegression(C=REGULARIZATION, max_iter=1000))
    report = _cross_validated(probe, values[labelled], truth, group, threshold)
    probability = pd.DataFrame(np.nan, index=adata.obs_names, columns=report.confusion.columns)
    if len(new := np.flatnonzero(embedded & ~labelled)):
        fitted = clone(probe).fit(values[labelled], truth.to_numpy(dtype=str))
        probability.iloc[new] = fitted.predict_proba(values[new])
    _write(adata, labels, probability, threshold, key_added or f"{labels_key}_predicted".replace("/", "_"))
    return report


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


def _write(adata: AnnData, labels: pd.Series, probability: pd.DataFrame, threshold: float, key: str) -> None:
    predicted, confidence = probability.notna().any(axis=1), probability.max(axis=1)
    names = labels.where(labels.isna(), labels.astype(str))
    names[predicted] = probability[predicted].idxmax(axis=1)
    names[predicted & (confidence < threshold)] = np.nan
    adata.obs[key] = pd.Categorical(names, categories=np.union1d(probability.columns, names.dropna()))
    adata.obs[f"{key}_confidence"] = confidence
    adata.obsm[f"{key}_probability"] = probability.to_numpy()
    adata.uns[f"{key}_classes"] = probability.columns.to_numpy(dtype=object)
