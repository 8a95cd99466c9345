import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import sagefm

TISSUES = np.array(["fat", "gland", "tumour"])


@pytest.fixture
def patients() -> ad.AnnData:
    """Four patients of 90 spots and three tissues, with a shift between patients. The last patient is unlabelled."""
    rng = np.random.default_rng(0)
    tissue = np.tile(np.repeat([0, 1, 2], 30), 4)
    patient = np.repeat([0, 1, 2, 3], 90)
    values = 1.5 * np.eye(3)[tissue] + 3 * rng.normal(size=(4, 3))[patient] + rng.normal(scale=0.6, size=(360, 3))
    obs = pd.DataFrame(
        {"truth": TISSUES[tissue], "label": TISSUES[tissue], "patient": [f"P{number}" for number in patient]},
        index=[f"spot{number}" for number in range(360)],
    )
    obs.loc[obs["patient"] == "P3", "label"] = None
    spatial = np.stack([tissue * 10 + np.tile(np.arange(30) % 6, 12), np.tile(np.arange(30) // 6, 12)], axis=1)
    return ad.AnnData(obs=obs, obsm={"X": values, "spatial": spatial.astype(float)})


def annotate(adata: ad.AnnData, **arguments) -> sagefm.tl.AnnotationReport:
    return sagefm.tl.annotate(
        adata, "label", **{"use_rep": "X", "group_key": "patient", "with_neighbors": False, **arguments}
    )


def test_unlabelled_spots_get_the_label_of_their_tissue(patients):
    annotate(patients, scale_by="patient", threshold=0)
    new = patients.obs["patient"] == "P3"
    assert (patients.obs["label_predicted"] == patients.obs["truth"])[new].mean() > 0.8
    assert (patients.obs["label_predicted"] == patients.obs["label"])[~new].all()
    assert patients.obs["label_predicted_confidence"].notna().equals(new)
    probability = patients.obsm["label_predicted_probability"]
    np.testing.assert_allclose(probability[new].sum(axis=1), 1)
    assert np.isnan(probability[~new]).all()
    most_likely = patients.uns["label_predicted_classes"][probability[new].argmax(axis=1)]
    assert (patients.obs["label_predicted"][new] == most_likely).all()


def test_scores_are_from_groups_left_out(patients):
    """Random labels: perfect in sample, worthless for a patient that is left out."""
    noise = np.random.default_rng(1)
    patients.obs["label"] = TISSUES[noise.integers(0, 3, 360)]
    patients.obsm["X"] = np.eye(360)  # lets a probe memorise every spot
    report = annotate(patients, classifier=LogisticRegression(C=1e6))
    assert report.accuracy < 0.45


def test_standardisation_within_patients_removes_their_shift(patients):
    raw, scaled = annotate(patients), annotate(patients, scale_by="patient")
    assert scaled.macro_f1 > raw.macro_f1 + 0.1
    assert scaled.accuracy > 0.8


def ring(n_spots: int) -> sp.csr_array:
    """Connect each spot with the one before and the one after."""
    after = sp.csr_array(np.eye(n_spots)[[*range(1, n_spots), 0]])
    return after + after.T


def test_neighbours_help_against_noise(patients):
    patients.obsm["X"] += np.random.default_rng(2).normal(scale=2, size=patients.obsm["X"].shape)
    patients.obsp["spatial_connectivities"] = sp.block_diag([ring(30)] * 12, format="csr")
    alone, with_neighbors = (annotate(patients, scale_by="patient", with_neighbors=used) for used in (False, True))
    assert with_neighbors.macro_f1 > alone.macro_f1 + 0.05


def test_features_are_the_spot_and_the_mean_over_embedded_neighbours(patients):
    patients.obsm["X"][[5, 100]] = np.nan
    patients.obsp["near_connectivities"] = sp.block_diag([ring(90)] * 4, format="csr")
    report = annotate(patients, with_neighbors=True, neighbors_key="near")
    values, around = patients.obsm["X"], sp.block_diag([ring(90)] * 4).toarray() + np.eye(360)
    around = np.stack([np.nanmean(values[row > 0], axis=0) for row in around])
    patients.obsm["X"] = np.hstack([values, around])
    expected = annotate(patients)
    pd.testing.assert_frame_equal(report.predictions, expected.predictions)
    assert len(report.predictions) == 268


def test_the_report_agrees_with_scikit_learn(patients):
    report = annotate(patients, scale_by="patient", threshold=0.6)
    truth, predicted = report.predictions["label"], report.predictions["prediction"]
    assert report.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert report.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert report.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert report.confusion.to_numpy().trace() == (truth == predicted).sum()
    kept = report.predictions["confidence"] >= 0.6
    assert report.share_kept == pytest.approx(kept.mean())
    assert report.accuracy_kept == pytest.approx((truth == predicted)[kept].mean())
    assert report.per_class["n"].tolist() == [90, 90, 90] and (report.per_class["n_groups"] == 3).all()
    assert report.per_group.index.tolist() == ["P0", "P1", "P2"]
    assert report.per_group["accuracy"].mean() == pytest.approx(report.accuracy)
    assert f"accuracy {report.accuracy:.3f}" in str(report)


def test_calibration_error_of_a_probe_that_is_always_certain(patients):
    certain = annotate(patients, classifier=DummyClassifier(strategy="most_frequent"))
    assert certain.calibration_error == pytest.approx(1 - certain.accuracy) == pytest.approx(2 / 3)
    prior = annotate(patients, classifier=DummyClassifier(strategy="prior"))
    assert prior.calibration_error == pytest.approx(0)
    assert prior.accuracy == pytest.approx(prior.majority_accuracy)


def test_no_label_below_the_threshold(patients):
    annotate(patients, scale_by="patient", threshold=0.7)
    new = patients.obs[patients.obs["patient"] == "P3"]
    uncertain = new["label_predicted_confidence"] < 0.7
    assert 0 < uncertain.sum() < len(new)
    assert new["label_predicted"].isna().equals(uncertain)


def test_a_class_of_one_patient_cannot_be_predicted_there(patients):
    patients.obs.loc[(patients.obs["patient"] == "P0") & (patients.obs["label"] == "fat"), "label"] = "nerve"
    report = annotate(patients, scale_by="patient")
    assert report.per_class.loc["nerve", ["recall", "n_groups"]].tolist() == [0, 1]
    assert report.predictions.loc[report.predictions["label"] == "nerve", "nerve"].eq(0).all()


def test_one_section_is_cross_validated_by_blocks_of_tissue(patients):
    alone = patients[patients.obs["patient"] == "P0"].copy()
    alone.obs.loc[alone.obs_names[::2], "label"] = None
    report = annotate(alone, group_key=None)
    assert len(report.per_group) == 5
    assert len(report.predictions) == 45
    assert alone.obs["label_predicted_confidence"].notna().sum() == 45


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, lambda values: pd.DataFrame(values).astype("Float64")])
def test_blocks_of_tissue_from_coordinates_of_any_kind(patients, kind):
    expected = annotate(patients, group_key=None).predictions
    stored = kind(patients.obsm["spatial"])
    patients.obsm["spatial"] = stored.set_index(patients.obs_names) if isinstance(stored, pd.DataFrame) else stored
    pd.testing.assert_frame_equal(annotate(patients, group_key=None).predictions, expected)


def test_blocks_need_a_coordinate_of_every_labelled_spot(patients):
    patients.obsm["spatial"][300] = np.nan
    annotate(patients, group_key=None)
    patients.obsm["spatial"][0, 1] = np.nan
    with pytest.raises(ValueError, match="1 labelled spots have coordinates .* NaN or infinite.* pass group_key"):
        annotate(patients, group_key=None)


def test_spots_that_are_not_embedded_are_left_out(patients):
    patients.obsm["X"][[0, 300]] = np.nan
    report = annotate(patients, scale_by="patient", threshold=0)
    assert "spot0" not in report.predictions.index
    assert pd.isna(patients.obs.loc["spot300", "label_predicted"])
    assert patients.obs.loc["spot0", "label_predicted"] == "fat"


def test_categorical_labels_and_files(patients, tmp_path):
    patients.obs["label"] = patients.obs["label"].astype("category").cat.add_categories("unused")
    annotate(patients, key_added="tissue")
    assert patients.obs["tissue"].cat.categories.tolist() == list(TISSUES)
    patients.write_h5ad(tmp_path / "a.h5ad")
    assert (ad.read_h5ad(tmp_path / "a.h5ad").uns["tissue_classes"] == TISSUES).all()


@pytest.mark.parametrize(
    "names",
    [["B/T cells", "B_T cells", "é/ß 肿瘤"], [".", "..", "_index"], [1, 2.5, "three"], [("a", "b"), ("c",), ()]],
    ids=str,
)
def test_any_names_of_classes_can_be_written(patients, tmp_path, names):
    as_given = dict(zip(TISSUES, names, strict=True))
    patients.obs["label"] = patients.obs["label"].map(as_given)
    report = annotate(patients)
    del patients.obs["label"]
    assert set(report.per_class.index) == set(map(str, names))
    patients.write_h5ad(tmp_path / "a.h5ad")
    patients.write_zarr(tmp_path / "a.zarr")
    for read in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        assert read.uns["label_predicted_classes"].tolist() == report.confusion.columns.tolist()
        pd.testing.assert_series_equal(read.obs["label_predicted"], patients.obs["label_predicted"])


@pytest.mark.parametrize("missing", ["", " ", None, np.nan, pd.NA], ids=repr)
def test_empty_labels_are_missing(patients, missing):
    expected = annotate(patients.copy()).predictions
    unlabelled = patients.obs["label"].isna()
    patients.obs["label"] = patients.obs["label"].astype(object)
    patients.obs.loc[unlabelled, "label"] = missing
    pd.testing.assert_frame_equal(annotate(patients).predictions, expected)
    assert patients.obs["label_predicted_confidence"].notna().equals(unlabelled)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"use_rep": "X_none"}, KeyError, "use_rep='X_none' is not in obsm"),
        ({"group_key": "donor"}, KeyError, "group_key='donor' is not a column of obs"),
        ({"scale_by": "donor"}, KeyError, "scale_by='donor' is not a column of obs"),
        ({"with_neighbors": True}, KeyError, "no neighbour graph 'spatial_connectivities'.*with_neighbors=False"),
        ({"threshold": 2}, ValueError, "threshold=2 must lie between 0 and 1"),
    ],
)
def test_invalid_arguments_are_refused(patients, arguments, error, message):
    with pytest.raises(error, match=message):
        annotate(patients, **arguments)


def test_labels_without_anything_to_learn_are_refused(patients):
    with pytest.raises(KeyError, match="labels_key='none' is not a column of obs"):
        sagefm.tl.annotate(patients, "none", use_rep="X")
    one = patients[patients.obs["patient"] == "P0"].copy()
    with pytest.raises(ValueError, match="All labelled spots belong to one group, 'P0'"):
        annotate(one)
    only_first = patients.copy()
    only_first.obs.loc[only_first.obs["patient"] != "P0", "label"] = "fat"
    with pytest.raises(ValueError, match="Outside group 'P0' all labelled spots are 'fat'"):
        annotate(only_first)
    patients.obs["label"] = "fat"
    with pytest.raises(ValueError, match="has 1 class"):
        annotate(patients)
    del one.obsm["spatial"]
    with pytest.raises(KeyError, match="needs group_key, or obsm"):
        annotate(one, group_key=None)


def test_a_class_of_spots_without_an_embedding_keeps_its_label(patients):
    patients.obs.iloc[:4, patients.obs.columns.get_loc("label")] = "nerve"
    patients.obsm["X"][:4] = np.nan
    annotate(patients)
    assert (patients.obs["label_predicted"].iloc[:4] == "nerve").all()


def test_spots_with_the_same_name_are_kept_separate(patients):
    expected = annotate(patients).predictions
    patients.obs_names = ["spot"] * patients.n_obs
    np.testing.assert_array_equal(annotate(patients).predictions.to_numpy(), expected.to_numpy())


@pytest.mark.parametrize("name", ["group", "majority"])
def test_a_class_with_the_name_of_a_column_of_the_report_is_refused(patients, name):
    patients.obs["label"] = patients.obs["label"].replace("fat", name)
    with pytest.raises(ValueError, match=f"A class is called '{name}'"):
        annotate(patients)


def test_predictions_have_the_colours_of_the_given_labels(patients):
    patients.obs["label"] = patients.obs["label"].astype("category")
    names = patients.obs["label"].cat.categories
    patients.uns["label_colors"] = [f"#{number:06d}" for number in range(len(names))]
    sagefm.tl.annotate(patients, "label", use_rep="X", group_key="patient", with_neighbors=False)
    expected = dict(zip(names, patients.uns["label_colors"], strict=True))
    predicted = patients.obs["label_predicted"].cat.categories
    assert patients.uns["label_predicted_colors"] == [expected[name] for name in predicted]
