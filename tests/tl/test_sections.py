import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sagefm


@pytest.fixture
def spots() -> ad.AnnData:
    values = np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 2.0], [9.0, 9.0]])
    obs = pd.DataFrame({"sample": pd.Categorical(["b", "b", "a", "a"])}, index=list("wxyz"))
    return ad.AnnData(obs=obs, obsm={"X_sagefm": values})


def test_mean_and_standard_deviation_of_each_section(spots):
    table = sagefm.tl.section_embedding(spots, sample_key="sample", statistics=["mean", "std"])
    expected = pd.DataFrame(
        {"mean_0": [7.0, 2.0], "mean_1": [5.5, 0.0], "std_0": [2.0, 1.0], "std_1": [3.5, 0.0]},
        index=pd.Index(["a", "b"], name="sample"),
    )
    pd.testing.assert_frame_equal(table, expected)


def test_one_statistic_may_be_plain_text(spots):
    table = sagefm.tl.section_embedding(spots, sample_key="sample", statistics="std")
    assert table.columns.tolist() == ["std_0", "std_1"]


@pytest.mark.parametrize("dtype", ["Float64", "Float32", object])
def test_missing_values_of_a_data_frame_are_spots_that_are_not_embedded(spots, dtype):
    spots.obsm["X_sagefm"] = pd.DataFrame(spots.obsm["X_sagefm"], spots.obs_names, ["one", "two"]).astype(dtype)
    spots.obsm["X_sagefm"].iloc[3, 1] = pd.NA
    table = sagefm.tl.section_embedding(spots, sample_key="sample")
    assert table.to_numpy().tolist() == [[5, 2], [2, 0]]


def test_spots_that_are_not_embedded_are_left_out(spots):
    spots.obsm["X_sagefm"][3] = np.nan
    table = sagefm.tl.section_embedding(spots, sample_key="sample", statistics=["mean", "std"])
    assert table.loc["a"].tolist() == [5, 2, 0, 0]


def test_a_section_without_embedded_spots_is_named(spots):
    spots.obsm["X_sagefm"][2:] = np.nan
    with pytest.raises(ValueError, match="Section 'a' has no embedded spot"):
        sagefm.tl.section_embedding(spots, sample_key="sample")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sample_key": "patient"}, KeyError, "sample_key='patient' is not a column of obs; found"),
        ({"use_rep": "X_pca"}, KeyError, "use_rep='X_pca' is not in obsm"),
        ({"statistics": ["median"]}, ValueError, "one or both of 'mean' and 'std'"),
        ({"statistics": "median"}, ValueError, "one or both of 'mean' and 'std'"),
        ({"statistics": []}, ValueError, "one or both of 'mean' and 'std'"),
    ],
)
def test_invalid_arguments_are_refused(spots, arguments, error, message):
    with pytest.raises(error, match=message):
        sagefm.tl.section_embedding(spots, **{"sample_key": "sample", **arguments})


def test_a_representation_of_text_is_refused(spots):
    spots.obsm["X_sagefm"] = pd.DataFrame({"one": list("abcd")}, index=spots.obs_names)
    with pytest.raises(ValueError, match=r"obsm\['X_sagefm'\] must hold numbers: could not convert"):
        sagefm.tl.section_embedding(spots, sample_key="sample")


def test_a_spot_without_a_section_is_refused(spots):
    spots.obs.loc["w", "sample"] = None
    with pytest.raises(ValueError, match="missing for 1 of 4 spots"):
        sagefm.tl.section_embedding(spots, sample_key="sample")
