"""Query mapping: label a new section by an annotated reference that was embedded by the same weights."""

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.base import ClassifierMixin

from sagefm.data import refuse_unwritable_key
from sagefm.tl._colors import colors_of, write_colors
from sagefm.tl._inputs import representation
from sagefm.tl._probe import Probe, ProbeSettings, default_key, write_labels
from sagefm.tl._report import AnnotationReport


def map_query(
    query: AnnData,
    reference: AnnData,
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
    """Label the spots of a new section by an annotated reference.

    Reference and query are embedded by the same frozen weights, each on its own: no joint analysis is needed, and the
    reference can be embedded once and kept. The probe of :func:`annotate` is cross-validated and trained on the
    labelled spots of the reference, and labels all spots of the query.

    Parameters
    ----------
    query
        Spots to label, with a representation in `obsm`, and a neighbour graph in `obsp` if `with_neighbors`. Spots with
        NaN in their row get no label. Labels that they have already are not used.
    reference
        One or more annotated sections with the same representation. Of the query, only the representation and the
        graph are needed to be in common: genes may differ.
    labels_key
        Column of `reference.obs` with the labels; spots where it is missing are not used for training.
    use_rep
        Key in `obsm` of the representation, in both. It must be computed by the same weights, for example
        `from_pretrained("human-mini", ...)`; principal components must be of one joint analysis.
    group_key
        Column of `reference.obs` to cross-validate by: the patient if there are several, else the section. The scores
        then estimate how well a query of another patient is labelled. With None, for a reference of one section,
        compact blocks of it are left out, and the scores are those for the same patient, which are too high for others.
    with_neighbors, neighbors_key, classifier
        As in :func:`annotate`.
    scale_by
        As in :func:`annotate`; a column of both `query.obs` and `reference.obs`.
    threshold
        Lowest confidence, the probability of the most likely class, at which a spot is labelled; 0 labels every spot.
        Tissue that the reference lacks cannot be recognised as such: it gets the label of what is most similar, and
        often a low confidence.
    key_added
        Where results are stored, by default `f"{labels_key}_predicted"`, in `query`: labels in `obs[key_added]`,
        missing below the threshold, their confidence in `obs[f"{key_added}_confidence"]`, and the probability of every
        class in `obsm[f"{key_added}_probability"]`, with the names of the classes in `uns[f"{key_added}_classes"]`.
        Labels have the colours of `labels_key` in the reference.
    seed
        Seed of the blocks of tissue.

    Returns
    -------
    AnnotationReport
        Cross-validated scores on the reference. Its `calibration_error` shows how far the confidence in a label can be
        read as the probability that it is correct, for patients like those of the reference.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If the representations have different numbers of dimensions, or for one of the reasons of :func:`annotate`.

    Examples
    --------
    The representation stands for `X_sagefm` of a reference and of a query that were embedded by the same weights:

    >>> import sagefm
    >>> import scanpy as sc
    >>> both = sagefm.datasets.simulated_tissue(20, 20, n_genes=200, n_sections=3)
    >>> sagefm.SAGEFM.setup_anndata(both, sample_key="sample")
    >>> sc.pp.pca(both, n_comps=10)
    >>> new = both.obs["sample"] == "section_3"
    >>> reference, query = both[~new].copy(), both[new].copy()
    >>> report = sagefm.tl.map_query(
    ...     query, reference, "annotation", use_rep="X_pca", group_key="sample", scale_by="sample", threshold=0
    ... )
    >>> correct = query.obs["annotation_predicted"].astype(str) == query.obs["annotation"].astype(str)
    >>> bool(correct.mean() > report.majority_accuracy)
    True
    """
    refuse_unwritable_key(key_added, "key_added")
    settings = ProbeSettings(use_rep, scale_by, neighbors_key if with_neighbors else None, classifier, threshold)
    values, embedded = representation(query, use_rep, "query.obsm")
    _refuse_other_dimensions(values, reference, use_rep)
    probe = Probe(reference, labels_key, settings, group_key=group_key, seed=seed)
    probability = probe.probabilities(settings.features(query, values, embedded), embedded, query.obs_names)
    unlabelled = pd.Series(np.nan, index=query.obs_names, dtype=object)
    key = key_added or default_key(labels_key)
    write_labels(query, unlabelled, probability, threshold, key)
    write_colors(query, key, colors_of(reference, labels_key))
    return probe.report


def _refuse_other_dimensions(values: np.ndarray, reference: AnnData, use_rep: str) -> None:
    """Raise unless the representation of the reference has as many dimensions as `values`, that of the query."""
    expected = representation(reference, use_rep, "reference.obsm")[0].shape[1]
    if values.shape[1] != expected:
        raise ValueError(
            f"obsm[{use_rep!r}] has {values.shape[1]} dimensions in `query` and {expected} in `reference`, so they "
            "cannot be of the same weights. Embed both with one model: `model.get_latent_representation(query)` and "
            "`model.get_latent_representation(reference)`."
        )
