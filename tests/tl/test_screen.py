"""Screens of known pairs: every kind of resource, and pairs that cannot be screened."""

import sys
from types import SimpleNamespace

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


def test_table_can_be_written_to_h5ad(trained_model, tmp_path):
    screen(trained_model, PAIRS)
    trained_model.adata.write_h5ad(tmp_path / "screened.h5ad")
    del trained_model.adata.uns["ligand_receptor_screen"]


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


def test_omnipath_columns(trained_model):
    """In OmniPath, `source` and `target` are UniProt identifiers, so the columns of symbols are used."""
    table = PAIRS.rename(columns={"ligand": "source_genesymbol", "receptor": "target_genesymbol"})
    assert len(screen(trained_model, table.assign(source="P1", target="P2"), key_added=None)) == 3


def test_concatenated_tables_keep_the_other_columns_of_each_pair(trained_model):
    parts = [PAIRS.iloc[[row]].assign(note=f"row {row}").reset_index(drop=True) for row in range(len(PAIRS))]
    table = screen(trained_model, pd.concat(parts), key_added=None).set_index(["source", "target"])
    for row, (source, target) in enumerate(PAIRS.iloc[:, :2].itertuples(index=False)):
        assert table.loc[(source, target), "note"] == f"row {row}"
