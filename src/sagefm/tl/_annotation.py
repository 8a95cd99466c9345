"""Labels for unlabelled spots, from a probe on a frozen representation that is cross-validated by patient."""

from anndata import AnnData
from sklearn.base import ClassifierMixin

from sagefm.data import refuse_unwritable_key
from sagefm.tl._colors import colors_of, write_colors
from sagefm.tl._probe import Probe, ProbeSettings, default_key, write_labels
from sagefm.tl._report import AnnotationReport


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
        `uns[f"{key_added}_classes"]`, where any name can be written to a file. Labels keep the colours of `labels_key`.
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
    settings = ProbeSettings(use_rep, scale_by, neighbors_key if with_neighbors else None, classifier, threshold)
    probe = Probe(adata, labels_key, settings, group_key=group_key, seed=seed)
    probability = probe.probabilities(probe.features, probe.unlabelled, adata.obs_names)
    key = key_added or default_key(labels_key)
    write_labels(adata, probe.labels, probability, threshold, key)
    write_colors(adata, key, colors_of(adata, labels_key))
    return probe.report
