import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import sagefm


@pytest.fixture
def labelled() -> AnnData:
    names = np.repeat(["tumour", "stroma", "fat"], [30, 20, 10])
    domain = np.repeat(["1", "2", "3", "4"], [20, 10, 20, 10])
    obs = pd.DataFrame({"annotation": names, "domain": domain}, index=np.arange(60).astype(str)).astype("category")
    return AnnData(obs=obs, uns={"annotation_colors": ["#111111", "#222222", "#333333"]})  # fat, stroma, tumour


def test_domains_take_the_colours_of_the_labels_that_they_overlap_with(labelled):
    sagefm.tl.match_colors(labelled, "domain", "annotation")
    colors = dict(zip(labelled.obs["domain"].cat.categories, labelled.uns["domain_colors"], strict=True))
    assert [colors[name] for name in "134"] == ["#333333", "#222222", "#111111"]
    assert colors["2"] not in labelled.uns["annotation_colors"]


def test_missing_labels_have_no_colour(labelled):
    labelled.obs.loc[labelled.obs["annotation"] == "fat", "annotation"] = np.nan
    sagefm.tl.match_colors(labelled, "domain", "annotation")
    assert len(labelled.uns["domain_colors"]) == 4
    assert labelled.uns["annotation_colors"] == ["#111111", "#222222", "#333333"]


def test_columns_of_text_and_without_colours_are_matched(labelled):
    labelled.obs["annotation"] = labelled.obs["annotation"].astype(str)
    labelled.obs["domain"] = labelled.obs["domain"].astype(str)
    del labelled.uns["annotation_colors"]
    sagefm.tl.match_colors(labelled, "domain", "annotation")
    assert len(set(labelled.uns["domain_colors"]) & set(labelled.uns["annotation_colors"])) == 3


@pytest.mark.parametrize("colors", [[(1, 0, 0), "C1", "green"], np.eye(3)], ids=["mixed", "array"])
def test_colours_of_any_kind_become_text(labelled, colors):
    """A list of both text and tuples can be neither sliced nor written."""
    labelled.uns["annotation_colors"] = colors
    sagefm.tl.match_colors(labelled, "domain", "annotation")
    assert labelled.uns["annotation_colors"][0] == "#ff0000"
    assert all(isinstance(color, str) for color in labelled.uns["domain_colors"])


def test_default_colours_are_text_beyond_the_cycle_of_matplotlib(labelled, tmp_path):
    labelled.obs["number"] = pd.Categorical([str(i % 9) for i in range(60)])
    sagefm.tl.match_colors(labelled, "number", "domain")
    assert all(isinstance(color, str) for color in labelled.uns["number_colors"])
    labelled[:30].write_h5ad(tmp_path / "a.h5ad")


@pytest.mark.parametrize("colors", [{"fat": 1, "stroma": 2, "tumour": 3}, "red", ["red"], ["x", "y", "z"]], ids=repr)
def test_colours_that_are_none_are_replaced(labelled, colors):
    labelled.uns["annotation_colors"] = colors
    sagefm.tl.match_colors(labelled, "domain", "annotation")
    assert len(set(labelled.uns["annotation_colors"])) == 3


def test_a_missing_column_is_named(labelled):
    with pytest.raises(KeyError, match="'none' is not a column of obs"):
        sagefm.tl.match_colors(labelled, "domain", "none")


@pytest.mark.parametrize("n", [8, 20, 28, 102, 130])
def test_any_number_of_domains_has_colours(n):
    adata = AnnData(obs=pd.DataFrame({"x": [f"{i:03}" for i in range(n)]}, index=[str(i) for i in range(n)]))
    adata.obs["y"] = adata.obs["x"]
    sagefm.tl.match_colors(adata, "x", "y")
    assert len(adata.uns["x_colors"]) == n
