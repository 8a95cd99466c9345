import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from sklearn.metrics import balanced_accuracy_score

import sagefm

KEYS = {"obs": ["tissue_predicted", "tissue_predicted_confidence"], "obsm": ["tissue_predicted_probability"]}


@pytest.fixture
def patients() -> tuple[ad.AnnData, ad.AnnData]:
    """A query of one patient and a reference of three, each with 90 spots of three tissues and a small shift."""
    rng = np.random.default_rng(0)
    tissue, patient = np.tile(np.repeat([0, 1, 2], 30), 4), np.repeat([0, 1, 2, 3], 90)
    values = 2 * np.eye(3)[tissue] + 0.3 * rng.normal(size=(4, 3))[patient] + rng.normal(scale=0.6, size=(360, 3))
    names = np.array(["fat", "gland", "tumour"])
    obs = pd.DataFrame({"tissue": names[tissue], "patient": [f"P{number}" for number in patient]})
    adata = ad.AnnData(obs=obs.set_index(obs.index.astype(str)), obsm={"X": values})
    return adata[patient == 3].copy(), adata[patient < 3].copy()


def mapped(query: ad.AnnData, reference: ad.AnnData, **arguments: object) -> sagefm.tl.AnnotationReport:
    chosen = {"use_rep": "X", "group_key": "patient", "with_neighbors": False, "threshold": 0, **arguments}
    return sagefm.tl.map_query(query, reference, "tissue", **chosen)


def test_spots_of_the_query_get_the_label_of_their_tissue(patients):
    query, reference = patients
    report = mapped(query, reference)
    assert (query.obs["tissue_predicted"] == query.obs["tissue"]).mean() > 0.85
    assert len(report.per_group) == 3 and report.accuracy > 0.85
    np.testing.assert_allclose(query.obsm["tissue_predicted_probability"].sum(axis=1), 1)
    assert list(query.uns["tissue_predicted_classes"]) == ["fat", "gland", "tumour"]
    assert "tissue_predicted" not in reference.obs and not reference.uns


def test_a_query_is_labelled_as_unlabelled_spots_of_one_annotated_object_are(patients):
    query, reference = patients
    mapped(query, reference)
    whole = ad.concat([reference, query])
    whole.obs.loc[query.obs_names, "tissue"] = None
    sagefm.tl.annotate(whole, "tissue", use_rep="X", group_key="patient", with_neighbors=False, threshold=0)
    np.testing.assert_allclose(
        query.obsm["tissue_predicted_probability"], whole[query.obs_names].obsm["tissue_predicted_probability"]
    )


def test_labels_of_the_query_are_not_used(patients):
    query, reference = patients
    mapped(query, reference)
    before = query.obs["tissue_predicted"].copy()
    query.obs["tissue"] = "bone"
    mapped(query, reference)
    pd.testing.assert_series_equal(query.obs["tissue_predicted"], before)


def test_spots_below_the_threshold_or_without_a_representation_get_no_label(patients):
    query, reference = patients
    query.obsm["X"][[3, 50]] = np.nan
    mapped(query, reference, threshold=0.6)
    labels, confidence = (query.obs[key] for key in KEYS["obs"])
    assert confidence.isna().to_numpy().nonzero()[0].tolist() == [3, 50]
    assert 0 < labels.isna().sum() < 90
    assert labels.isna().equals(~(confidence >= 0.6))


def test_neighbours_are_those_of_each_section(patients):
    query, reference = patients
    for adata in patients:
        n = adata.n_obs
        adata.obsp["spatial_connectivities"] = sp.csr_matrix(np.eye(n, k=1) + np.eye(n, k=-1))
        adata.obsm["X"] += np.random.default_rng(1).normal(scale=2, size=adata.obsm["X"].shape)
    scores = []
    for with_neighbors in (False, True):
        mapped(query, reference, with_neighbors=with_neighbors)
        scores.append((query.obs["tissue_predicted"] == query.obs["tissue"]).mean())
    assert scores[1] > scores[0] + 0.05


def test_scale_by_is_a_column_of_both(patients):
    query, reference = patients
    query.obsm["X"] += [5, 0, 0]  # of the query alone, towards one tissue
    mapped(query, reference)
    shifted = (query.obs["tissue_predicted"] == query.obs["tissue"]).mean()
    mapped(query, reference, scale_by="patient")
    assert (query.obs["tissue_predicted"] == query.obs["tissue"]).mean() > max(0.85, shifted + 0.2)
    del query.obs["patient"]
    with pytest.raises(KeyError, match="scale_by='patient' is not a column of obs"):
        mapped(query, reference, scale_by="patient")


def test_genes_of_query_and_reference_may_differ(patients):
    """Only the representation is compared: the model aligned the genes of each when it embedded them."""
    scvi.settings.seed = 0
    sections = sagefm.datasets.simulated_tissue(26, 26, n_genes=300, n_sections=3, n_layers=3, n_niches=0, seed=1)
    new = (sections.obs["sample"] == "section_3").to_numpy()
    reference, query = sections[~new].copy(), sections[new, :280].copy()
    sagefm.SAGEFM.setup_anndata(reference, sample_key="sample")
    model = sagefm.SAGEFM(reference)
    model.train(max_epochs=30, enable_progress_bar=False, accelerator="cpu")
    for adata in (reference, query):
        model.get_latent_representation(adata)
    report = sagefm.tl.map_query(query, reference, "annotation", group_key="sample", threshold=0)
    correct = query.obs["annotation_predicted"].astype(str) == query.obs["annotation"].astype(str)
    assert correct.mean() > report.majority_accuracy + 0.2


def test_representations_of_other_weights_are_refused(patients):
    query, reference = patients
    reference.obsm["X"] = reference.obsm["X"][:, :2]
    with pytest.raises(ValueError, match="has 3 dimensions in `query` and 2 in `reference`.*one model"):
        mapped(query, reference)
    del reference.obsm["X"]
    with pytest.raises(KeyError, match=r"use_rep='X' is not in reference\.obsm"):
        mapped(query, reference)


def test_patient_f_is_labelled_from_five_other_patients(real_section):
    sections = {patient: real_section(f"her2st_andersson2021__{patient}1") for patient in "ABCDEF"}
    for section in sections.values():
        section.obs["annotation"] = section.obs["annotation"].astype(object).replace("undetermined", np.nan)
        sagefm.SAGEFM.from_pretrained("human-mini", section).get_latent_representation()
    query = sections.pop("F")
    reference = ad.concat(sections, label="patient", pairwise=True, index_unique="-")
    report = sagefm.tl.map_query(query, reference, "annotation", group_key="patient", threshold=0)
    known = query.obs["annotation"].notna()
    truth, predicted = (query.obs[key][known].astype(str) for key in ("annotation", "annotation_predicted"))
    assert balanced_accuracy_score(truth, predicted) > 0.5  # three classes; 0.33 for the most common tissue
    assert len(report.per_group) == 5
