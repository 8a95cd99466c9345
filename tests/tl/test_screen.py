"""Screens of known pairs: every kind of resource, and pairs that cannot be screened."""

import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sagefm

PAIRS = pd.DataFrame(
    {"ligand": ["LIG1", "LIG2", "LIG1_LIG2"], "receptor": ["TGT1", "TGT2", "TGT1_TGT2"], "weight": [1, -1, 1]}
)


def screen(model, resource, **kwargs) -> pd.DataFrame:
    return sagefm.tl.ligand_receptor_screen(model, resource, n_controls=5, **kwargs)


def test_result_equals_perturb_and_is_stored(trained_model):
    table = screen(trained_model, PAIRS, key_added="screen")
    expected = trained_model.perturb(
        pairs=PAIRS.rename(columns={"ligand": "source", "receptor": "target"}), n_controls=5
    )
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    assert table["weight"].tolist() == [1, -1, 1]
    pd.testing.assert_frame_equal(trained_model.adata.uns.pop("screen"), table)


def test_a_file_gives_the_same_result_as_the_table(trained_model, tmp_path):
    table = screen(trained_model, PAIRS, key_added=None)
    for name, sep in (("pairs.csv", ","), ("pairs.tsv", "\t")):
        PAIRS.to_csv(tmp_path / name, sep=sep, index=False)
        pd.testing.assert_frame_equal(screen(trained_model, tmp_path / name, key_added=None), table)
    assert "ligand_receptor_screen" not in trained_model.adata.uns


COLUMNS = {
    "none": ["a", None, "b"],
    "lists": [["a"], [], ["b", "c"]],
    "mixed": [1, "a", None],
    "string": pd.array(["a", pd.NA, "b"], dtype="string"),
    "Float64": pd.array([1, pd.NA, 2], dtype="Float64"),
    "Int64": pd.array([1, 2, 3], dtype="Int64"),
    "time": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
    "categories": pd.Categorical([1, "a", None]),
    "sparse": pd.arrays.SparseArray([0, 0, 1]),
    7: [1, 2, 3],
    "7": [True, False, True],
    "a/b": ["é", "ß", "肿瘤"],
    "a_b": [1.5, np.nan, 2],
    "": ["x", "y", "z"],
    "..": [None, None, None],
    "_index": [1, 2, 3],
}


@pytest.mark.parametrize("groupby", [None, "annotation"])
def test_any_resource_can_be_written(trained_model, tmp_path, groupby):
    adata, resource = trained_model.adata.copy(), PAIRS.join(pd.DataFrame(COLUMNS))
    table = screen(trained_model, resource, adata=adata, groupby=groupby)
    first = table.drop_duplicates(["source", "target"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(first[list(COLUMNS)], resource[list(COLUMNS)], check_dtype=False)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for read in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        written = read.uns["ligand_receptor_screen"]
        assert written.shape == table.shape
        assert (written.isna().to_numpy() == table.isna().to_numpy()).all()
        np.testing.assert_array_equal(written["effect"], table["effect"])
        assert written["lists"].iloc[-1] == "['b', 'c']" and written["a_b"].iloc[-1] == "肿瘤"


def test_pairs_without_an_effect_have_a_reason(trained_model, caplog):
    adata = trained_model.adata.copy()
    adata.X[:, adata.var_names.get_indexer(["LIG2", "TGT1"])] = 0
    table = screen(trained_model, PAIRS, adata=adata)
    assert table["reason"].tolist() == ["no counts of TGT1", "no counts of LIG2", "no counts of LIG2, TGT1"]
    assert "3 of 3 pairs have no scaled effect, 3 because a gene has no counts" in caplog.text
    table = screen(trained_model, PAIRS, groupby="annotation", levels={"percentile": [0, 0.1]})
    assert table["reason"].ne("").equals(table["scaled_effect"].isna()) and table["reason"].ne("").any()
    assert set(table["reason"]) <= {"", "the levels of the source, or the target, do not vary"}


def test_one_of_several_resources_is_chosen_by_name(trained_model, caplog):
    table = pd.concat([PAIRS.iloc[:2].assign(resource="one"), PAIRS.iloc[1:].assign(resource="two")])
    assert len(screen(trained_model, table, key_added=None)) == 3
    assert "has 2 resources in its column 'resource', and all are used; `resource_name='one'`" in caplog.text
    chosen = screen(trained_model, table, resource_name="two", key_added=None)
    assert chosen["source"].tolist() == ["LIG2", "LIG1_LIG2"] and set(chosen["resource"]) == {"two"}


def test_liana_resources(trained_model, monkeypatch):
    requested = []
    rs = SimpleNamespace(select_resource=lambda name: requested.append(name) or PAIRS)
    monkeypatch.setitem(sys.modules, "liana", SimpleNamespace(rs=rs))
    assert len(screen(trained_model, "consensus", key_added=None)) == 3
    assert requested == ["consensus"]


def test_without_liana_the_error_says_how_to_install_it(trained_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "liana", None)
    with pytest.raises(ImportError, match=r"sagefm\[liana\]"):
        screen(trained_model, "consensus")


def test_pairs_that_cannot_be_screened_are_left_out(trained_model):
    more = pd.DataFrame({"ligand": ["LIG1", "LIG1", "IL2", None], "receptor": ["LIG1_TGT1", "IL2RA", "TGT1", "TGT1"]})
    table = screen(trained_model, pd.concat([PAIRS, more, PAIRS]), key_added=None)
    assert len(table) == 3


@pytest.mark.parametrize(
    ("resource", "error", "message"),
    [
        (pd.DataFrame({"a": ["LIG1"], "b": ["TGT1"]}), KeyError, "needs columns 'ligand' and 'receptor'"),
        (pd.DataFrame({"source": ["Lig1"], "target": ["Tgt1"]}), ValueError, "None of the 1 pairs"),
        (PAIRS[:0], ValueError, "None of the 0 pairs"),
    ],
)
def test_invalid_resource_is_refused(trained_model, resource, error, message):
    with pytest.raises(error, match=message):
        screen(trained_model, resource)


@pytest.mark.parametrize(
    ("resource", "error", "message"),
    [
        (PAIRS.assign(resource="one"), ValueError, "resource_name='two' is not known; it is one of 'one'"),
        (PAIRS, KeyError, "resource_name='two' needs a column 'resource'; found"),
    ],
)
def test_unknown_resource_name_is_refused(trained_model, resource, error, message):
    with pytest.raises(error, match=message):
        screen(trained_model, resource, resource_name="two")


def test_omnipath_columns(trained_model):
    """In OmniPath, `source` and `target` are UniProt identifiers, so the columns of symbols are used."""
    table = PAIRS.rename(columns={"ligand": "source_genesymbol", "receptor": "target_genesymbol"})
    assert len(screen(trained_model, table.assign(source="P1", target="P2"), key_added=None)) == 3


def test_concatenated_tables_keep_the_other_columns_of_each_pair(trained_model):
    parts = [PAIRS.iloc[[row]].assign(note=f"row {row}").reset_index(drop=True) for row in range(len(PAIRS))]
    table = screen(trained_model, pd.concat(parts), key_added=None).set_index(["source", "target"])
    for row, (source, target) in enumerate(PAIRS.iloc[:, :2].itertuples(index=False)):
        assert table.loc[(source, target), "note"] == f"row {row}"
