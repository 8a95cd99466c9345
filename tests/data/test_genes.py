"""Genes are known by their names: matched in any order, missed by name, and never guessed by position."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sagefm.data import gene_names, match_genes, positions_of

MODEL = pd.Index([f"GENE{i}" for i in range(20)])


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def section(names: list[str], **var: list[str]) -> ad.AnnData:
    return ad.AnnData(np.ones((2, len(names)), dtype=np.float32), var=pd.DataFrame(var, index=names))


# What a gene is called.


def test_genes_are_called_by_var_names():
    assert gene_names(section(["A", "B"], symbol=["x", "y"]), None).tolist() == ["A", "B"]


def test_genes_are_called_by_the_column_that_gene_symbols_names():
    assert gene_names(section(["ENSG1", "ENSG2"], symbol=["A", "B"]), "symbol").tolist() == ["A", "B"]


def test_gene_symbols_may_be_categorical():
    adata = section(["ENSG1", "ENSG2"], symbol=["B", "A"])
    adata.var["symbol"] = adata.var["symbol"].astype("category")
    assert gene_names(adata, "symbol").tolist() == ["B", "A"]


def test_a_wrong_gene_symbols_is_refused_with_the_columns_there_are():
    message = "gene_symbols='symbols' is not a column of var; it has ['symbol', 'chromosome']."
    with pytest.raises(KeyError, match=exactly(message)):
        gene_names(section(["ENSG1"], symbol=["A"], chromosome=["1"]), "symbols")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_two_genes_of_one_name_are_refused():
    message = "1 gene names in var_names stand more than once, for example 'B'. Try `adata.var_names_make_unique()`."
    with pytest.raises(ValueError, match=exactly(message)):
        gene_names(section(["A", "B", "B", "B"]), None)


def test_two_genes_of_one_symbol_are_refused_with_the_column():
    adata = section(["ENSG1", "ENSG2", "ENSG3"], symbol=["A", "B", "A"])
    with pytest.raises(
        ValueError, match=re.escape("1 gene names in var['symbol'] stand more than once, for example 'A'.")
    ):
        gene_names(adata, "symbol")


def test_two_genes_of_one_name_do_no_harm_where_symbols_tell_them_apart():
    adata = section(["A", "B"], symbol=["x", "y"])
    adata.var_names = ["A", "A"]
    assert gene_names(adata, "symbol").tolist() == ["x", "y"]


# Where a section has the genes of the model.


def test_genes_are_found_in_any_order():
    shuffled = MODEL[np.random.default_rng(0).permutation(20)]
    assert shuffled[match_genes(MODEL, shuffled)].equals(MODEL)


def test_a_gene_that_the_section_lacks_has_no_column():
    columns = match_genes(MODEL, MODEL.drop(["GENE0", "GENE7"]))
    assert np.flatnonzero(columns == -1).tolist() == [0, 7]


def test_a_gene_that_the_model_does_not_know_is_passed_over():
    section_genes = pd.Index(["OTHER", *MODEL])
    assert match_genes(MODEL, section_genes).tolist() == list(range(1, 21))


def test_a_tenth_of_the_genes_is_enough_and_less_is_refused_with_the_coverage():
    assert (match_genes(MODEL, MODEL[:2]) >= 0).sum() == 2
    message = (
        "The section has 1 of the 20 genes that the model knows (5.0%); at least 10% are needed. The model's genes "
        "look like ['GENE0', 'GENE1', 'GENE2'], the section's like ['GENE0', 'X', 'Y']. If the names stand in a column "
        "of var, pass it as `gene_symbols`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        match_genes(MODEL, pd.Index(["GENE0", "X", "Y", "Z"]))


def test_a_small_panel_of_known_names_is_told_to_train_its_own_model():
    hint = " The names agree, but the panel is small: train a model on the section itself, `SAGEFM(adata)`."
    with pytest.raises(ValueError, match=f"\\['GENE0'\\]\\.{re.escape(hint)}$"):
        match_genes(MODEL, MODEL[:1])
    with pytest.raises(ValueError, match="pass it as `gene_symbols`"):
        match_genes(MODEL, pd.Index(["GENE0", "OTHER"]))


HINT = (
    " Many names agree but for upper and lower case, as mouse symbols do with human ones; map them to the orthologues "
    "of the model's species first."
)


def test_mouse_symbols_are_refused_with_a_hint():
    with pytest.raises(ValueError, match=re.escape(HINT)):
        match_genes(MODEL, MODEL.str.capitalize())


VERSIONS = (
    " Many names agree but for the version after the dot; take it off both with "
    "`adata.var_names = adata.var_names.str.split('.').str[0]`."
)


@pytest.mark.parametrize("version_of_the_model", ["", ".3"])
def test_identifiers_of_other_versions_are_refused_with_a_hint(version_of_the_model):
    identifiers = pd.Index([f"ENSG{i:011}" for i in range(20)])
    with pytest.raises(ValueError, match=f"{re.escape(VERSIONS)}$"):
        match_genes(identifiers + version_of_the_model, identifiers + ".12")


@pytest.mark.parametrize(("n_agree", "n_genes", "hinted"), [(2, 8, True), (2, 9, False), (1, 3, True), (0, 3, False)])
def test_a_hint_is_given_where_a_quarter_of_the_names_agree(n_agree, n_genes, hinted):
    mouse = [f"Gene{i}" for i in range(n_agree)] + [f"X{i}" for i in range(n_genes - n_agree)]
    with pytest.raises(ValueError, match="of the 20 genes") as refusal:
        match_genes(MODEL, pd.Index(mouse))
    assert (HINT in str(refusal.value)) == hinted


def test_names_of_another_kind_are_refused_without_the_hint():
    with pytest.raises(ValueError, match="The section has 0 of the 20 genes") as refusal:
        match_genes(MODEL, pd.Index([f"ENSG{i:011}" for i in range(20)]))
    assert HINT not in str(refusal.value)


def test_a_real_mouse_section_is_refused_by_human_genes_with_a_hint(real_section):
    human, mouse = real_section("her2st_andersson2021__A1"), real_section("mouse_mob_stahl2016__rep12")
    with pytest.raises(ValueError, match=re.escape(HINT)):
        match_genes(human.var_names, mouse.var_names)


def test_real_sections_of_one_species_and_several_panels_match(real_section):
    human = real_section("her2st_andersson2021__A1").var_names
    for name in ("dlpfc_huukimyers2024__Br8325_ant", "dlpfc_maynard2021__151673"):
        panel = real_section(name).var_names
        columns = match_genes(human, panel)
        assert panel[columns[columns >= 0]].equals(human[human.isin(panel)])


# Genes that a user asks for.


def test_asked_genes_are_found_in_the_asked_order():
    assert positions_of(["GENE7", "GENE0"], MODEL).tolist() == [7, 0]


def test_one_gene_may_be_a_string():
    assert positions_of("GENE7", MODEL).tolist() == [7]


def test_genes_may_come_one_by_one():
    assert positions_of((gene for gene in ("GENE1", "GENE2")), MODEL).tolist() == [1, 2]


def test_an_unknown_gene_is_refused_with_close_names():
    message = "The model does not know 2 of the 3 asked genes: 'CD3' (did you mean CD3E, CD3D?); 'zzz'."
    with pytest.raises(KeyError, match=exactly(message)):
        positions_of(["CD3", "MS4A1", "zzz"], pd.Index(["CD3E", "CD3D", "MS4A1"]))


@pytest.mark.parametrize(("asked", "offered"), [("cd3e", "CD3E"), ("Ms4a1", "MS4A1"), ("c1ORF112", "C1orf112")])
def test_close_names_are_found_in_other_letter_case(asked, offered):
    with pytest.raises(KeyError, match=re.escape(f"'{asked}' (did you mean {offered}?)")):
        positions_of([asked], pd.Index(["CD3E", "MS4A1", "C1orf112"]))


def test_genes_that_differ_in_letter_case_only_are_both_offered():
    with pytest.raises(KeyError, match=re.escape("(did you mean Abc, ABC?)")):
        positions_of(["abc"], pd.Index(["Abc", "ABC"]))


def test_three_close_names_at_most_are_offered():
    with pytest.raises(KeyError) as refusal:
        positions_of(["CD3"], pd.Index(["CD3A", "CD3B", "CD3C", "CD3D"]))
    assert len(re.findall("CD3[A-D]", str(refusal.value))) == 3


def test_many_unknown_genes_are_counted_and_the_first_five_named():
    with pytest.raises(KeyError, match="does not know 9 of the 9") as refusal:
        positions_of([f"{letter}___" for letter in "abcdefghi"], MODEL)
    assert [letter for letter in "abcdefghi" if f"'{letter}___'" in str(refusal.value)] == list("abcde")


def test_no_genes_are_refused():
    with pytest.raises(ValueError, match=exactly("`genes` is empty; name at least one gene.")):
        positions_of([], MODEL)


def test_a_gene_asked_for_twice_is_refused():
    message = "1 of the asked genes stand more than once, for example 'GENE1'. Try `list(dict.fromkeys(genes))`."
    with pytest.raises(ValueError, match=exactly(message)):
        positions_of(["GENE1", "GENE2", "GENE1"], MODEL)
    with pytest.raises(ValueError, match=exactly(message)):
        positions_of(np.array(["GENE1", "GENE2", "GENE1"]), MODEL)
