"""Labels for unlabelled spots, by a probe on a frozen representation that is cross-validated by patient."""

from __future__ import annotations

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
from sagefm.data import obs_column
from sagefm.tl._inputs import embedded, groups, neighborhood_mean_operator, representation, scaled_within
from sagefm.tl._report import AnnotationReport, report_of

N_BLOCKS = 5  # of tissue, to cross-validate by where there are no patients
# Of the logistic regression, scikit-learn's C. Across patients 0.01 is both more accurate and better calibrated than 1.
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

    The representation is frozen. The probe, a logistic regression on standardised features, sees that of a spot and,
    beside it, the mean over the spot and its neighbours. Before it labels anything it is cross-validated on the
    labelled spots, each group left out in turn.

    Parameters
    ----------
    adata
        Spots with a representation in `obsm`, and a neighbour graph in `obsp` where neighbours are to be seen. Spots
        whose row has NaN are neither learnt from nor labelled.
    labels_key
        Column of `obs` with the labels; missing (NaN) where a spot is unlabelled.
    use_rep
        Key in `obsm` of the representation.
    group_key
        Column of `obs` to cross-validate by: the patient where there are several, else the section. None is for one
        section: compact blocks of it are left out, and how well the probe does on other tissue remains unknown.
    with_neighbors
        Whether the probe sees the mean over a spot and its neighbours as well; False needs no neighbour graph.
    scale_by
        Column of `obs` within whose groups the representation is standardised before anything else, over labelled and
        unlabelled spots. Sections differ in depth and handling, often by more than tissues do: with principal
        components of several sections, pass the section here. Latents of a model that was trained on many patients,
        such as `"human-mini"`, may do better without, as what a section has most of then stays visible.
    neighbors_key
        Prefix of the neighbour graph's key in `obsp`.
    classifier
        Any scikit-learn classifier with `predict_proba`, for example one with `class_weight="balanced"` for rare
        classes; by default `LogisticRegression(C=0.01, max_iter=1000)`. Spots of a section are far from independent,
        and with scikit-learn's own, weaker `C=1` the probe learns the patients it is trained on by heart.
    threshold
        Lowest confidence, the probability of the likeliest class, at which a label is given; 0 labels every spot.
    key_added
        Where results go, by default `f"{labels_key}_predicted"`: into `obs[key_added]` the given label where there is
        one, else the prediction, missing below the threshold; into `obs[f"{key_added}_confidence"]` the confidence
        in predictions, NaN where the label was given; and into `obsm[f"{key_added}_probability"]` a table of every
        class's probability, for spots that were predicted.
    seed
        Seed of the blocks of tissue.

    Returns
    -------
    AnnotationReport
        Scores on labelled spots, with `per_class`, `per_group`, `confusion` and `predictions` as tables.

    Raises
    ------
    KeyError
        If a key is not there; the message lists those that are.
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
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1.")
    values = representation(adata, use_rep)
    rows = embedded(values, use_rep)
    labels = obs_column(adata, labels_key, "labels_key").astype(object)
    known = rows & labels.notna().to_numpy()
    group = _groups(adata, group_key, known, seed)
    _check(labels[known], group[known], labels_key, group_key)
    values = scaled_within(values, None if scale_by is None else groups(adata, scale_by, "scale_by"))
    if with_neighbors:
        values = _beside_neighborhood(adata, values, rows, neighbors_key)
    probe = make_pipeline(StandardScaler(), classifier or LogisticRegression(C=REGULARIZATION, max_iter=1000))
    report = _cross_validated(probe, values[known], labels[known].astype(str), group[known], threshold)
    probability = _predicted(probe, values, labels, known, rows & ~known)
    _write(adata, labels, probability.set_axis(adata.obs_names), threshold, key_added or f"{labels_key}_predicted")
    return report


def _beside_neighborhood(adata: AnnData, values: np.ndarray, rows: np.ndarray, neighbors_key: str) -> np.ndarray:
    """Return `values` with, beside them, their mean over each spot and its embedded neighbours."""
    around = np.full_like(values, np.nan)
    around[rows] = neighborhood_mean_operator(adata, rows, neighbors_key, instead="with_neighbors=False") @ values[rows]
    return np.hstack([values, around])


def _groups(adata: AnnData, group_key: str | None, known: np.ndarray, seed: int) -> np.ndarray:
    """Return what is left out together: a group of spots, or a compact block of tissue."""
    if group_key is not None:
        return groups(adata, group_key, "group_key")
    if "spatial" not in adata.obsm:
        raise MissingKeyError(
            "There is neither group_key nor obsm['spatial'] to cut blocks of tissue from; obsm has "
            f"{sorted(adata.obsm)}."
        )
    blocks = np.full(adata.n_obs, -1)
    n_blocks = min(N_BLOCKS, int(known.sum()))
    if n_blocks:
        blocks[known] = KMeans(n_blocks, random_state=seed).fit_predict(np.asarray(adata.obsm["spatial"])[known])
    return blocks


def _check(labels: pd.Series, group: np.ndarray, labels_key: str, group_key: str | None) -> None:
    """Refuse labels that leave nothing to learn or to test on."""
    if labels.nunique() < 2:
        raise ValueError(
            f"obs[{labels_key!r}] has {labels.nunique()} class(es) on the {len(labels)} labelled spots that are "
            "embedded; a probe needs at least two."
        )
    if len(np.unique(group)) < 2:
        raise ValueError(
            f"All labelled spots are of one group, {group[0]!r} in obs[{group_key!r}]; leaving it out leaves nothing "
            "to learn from. Pass group_key=None to leave out blocks of tissue instead."
        )
    for name in np.unique(group):
        if labels[group != name].nunique() < 2:
            raise ValueError(
                f"Outside group {name!r} all labelled spots are {labels[group != name].iloc[0]!r}; a probe needs at "
                "least two classes. Label spots of more groups, or pass another group_key."
            )


def _cross_validated(
    probe: ClassifierMixin, values: np.ndarray, labels: pd.Series, group: np.ndarray, threshold: float
) -> AnnotationReport:
    classes = np.unique(labels.to_numpy(dtype=str))
    with warnings.catch_warnings():
        # A class that one group alone has is unknown to the fold that leaves it out: its probability is 0 there.
        warnings.filterwarnings("ignore", message="Number of classes in training fold", category=RuntimeWarning)
        probability = cross_val_predict(
            probe, values, labels.to_numpy(dtype=str), groups=group, cv=LeaveOneGroupOut(), method="predict_proba"
        )
    told = {
        "group": group,
        "label": labels.to_numpy(),
        "prediction": classes[probability.argmax(axis=1)],
        "confidence": probability.max(axis=1),
    }
    if taken := sorted(set(told).intersection(classes)):
        raise ValueError(f"A class is called {str(taken[0])!r}, as a column of the report is; rename it.")
    predictions = pd.DataFrame(told | dict(zip(classes, probability.T, strict=True)), index=labels.index)
    majority = pd.Series({name: labels[group != name].mode()[0] for name in np.unique(group)})
    return report_of(predictions.assign(majority=majority.loc[group].to_numpy()), classes, threshold)


def _predicted(
    probe: ClassifierMixin, values: np.ndarray, labels: pd.Series, known: np.ndarray, asked: np.ndarray
) -> pd.DataFrame:
    """Return the probability of every class, (spots, classes), NaN for spots not `asked` for."""
    fitted = clone(probe).fit(values[known], labels[known].to_numpy(dtype=str))
    probability = pd.DataFrame(np.nan, index=range(len(values)), columns=fitted.classes_)
    if asked.any():
        probability.iloc[asked] = fitted.predict_proba(values[asked])
    return probability


def _write(adata: AnnData, labels: pd.Series, probability: pd.DataFrame, threshold: float, key: str) -> None:
    predicted = probability.notna().any(axis=1)
    confidence = probability.max(axis=1)
    names = labels.where(labels.isna(), labels.astype(str))
    names[predicted] = probability[predicted].idxmax(axis=1)
    names[predicted & (confidence < threshold)] = np.nan
    adata.obs[key] = pd.Categorical(names, categories=np.union1d(probability.columns, names.dropna()))
    adata.obs[f"{key}_confidence"] = confidence
    adata.obsm[f"{key}_probability"] = probability
