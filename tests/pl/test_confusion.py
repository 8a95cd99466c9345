"""Confusion matrices of reports and of columns of obs."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import sagefm


@pytest.fixture
def query() -> AnnData:
    given = ["a", "a", "a", "a", "b", "b", "c", None]
    predicted = ["a", "a", "a", "b", "b", "a", None, "a"]
    obs = pd.DataFrame({"region": given, "region_predicted": pd.Categorical(predicted)})
    return AnnData(obs=obs.set_axis(obs.index.astype(str)))


def cells(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_cells_have_counts_and_the_share_of_their_row(query):
    ax = sagefm.pl.confusion(query, "region")
    assert cells(ax) == ["3", "1", "1", "1"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0.5, 0.5]])
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("annotated", "predicted")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_title() == "67% of 6 spots agree"


def test_labels_that_were_given_are_left_out(query):
    query.obs["region_predicted_confidence"] = [np.nan, np.nan, np.nan, 0.9, 0.9, 0.9, 0.1, 0.9]
    assert sagefm.pl.confusion(query, "region").get_title() == "33% of 3 spots agree"
    query.obs["region_predicted_confidence"] = np.nan
    with pytest.raises(ValueError, match="pass the report"):
        sagefm.pl.confusion(query, "region")


def test_a_report_has_its_cross_validated_predictions():
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=150)
    adata.obsm["X_known"] = pd.get_dummies(adata.obs["annotation"]).to_numpy(dtype=float)
    report = sagefm.tl.annotate(adata, "annotation", use_rep="X_known", with_neighbors=False)
    ax = sagefm.pl.confusion(report)
    assert [int(text or 0) for text in cells(ax)] == report.confusion.to_numpy().ravel().tolist()
    assert ax.get_title() == f"{report.accuracy:.0%} of {adata.n_obs} spots agree"
    with pytest.raises(ValueError, match="No spot has both"):
        sagefm.pl.confusion(adata, "annotation")  # all labels were given


def test_classes_without_spots_have_an_empty_row():
    obs = pd.DataFrame({"region": ["a", "a"], "other": ["a", "b"]}, index=["1", "2"])
    ax = sagefm.pl.confusion(AnnData(obs=obs), "region", "other")
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.5, 0.5], [0, 0]])


def test_other_input_is_refused(query):
    with pytest.raises(TypeError, match="labels_key=None"):
        sagefm.pl.confusion(query)
    with pytest.raises(TypeError, match="found DataFrame"):
        sagefm.pl.confusion(query.obs, "region")
    with pytest.raises(KeyError, match="'label' is not a column of obs"):
        sagefm.pl.confusion(query, "region", "label")
