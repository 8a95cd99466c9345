"""Genes are matched by their names in any order, and never guessed by position."""

import re
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagefm._errors import GeneMismatchError
from sagefm.data import gene_names, match_genes, positions_of

MODEL = pd.Index([f"GENE{i}" for i in range(20)])


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def section(names: list[str], **var: list[str]) -> ad.AnnData:
    return ad.AnnData(np.ones((2, len(names)), dtype=np.float32), var=pd.DataFrame(var, index=names))


# Names of genes.


def test_genes_are_named_by_var_names():
    assert gene_names(section(["A", "B"], symbol=["x", "y"]), None).tolist() == ["A", "B"]


def test_genes_are_named_by_the_column_gene_symbols():
    assert gene_names(section(["ENSG1", "ENSG2"], symbol=["A", "B"]), "symbol").tolist() == ["A", "B"]


def test_gene_symbols_may_be_categorical():
    adata = section(["ENSG1", "ENSG2"], symbol=["B", "A"])
    adata.var["symbol"] = adata.var["symbol"].astype("category")
    assert gene_names(adata, "symbol").tolist() == ["B", "A"]


def test_an_unknown_gene_symbols_is_rejected_and_the_columns_listed():
    message = "gene_symbols='symbols' is not a column of var; found ['symbol', 'chromosome']."
    with pytest.raises(KeyError, match=exactly(message)):
        gene_names(section(["ENSG1"], symbol=["A"], chromosome=["1"]), "symbols")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicated_names_are_rejected():
    message = (
        "Some gene names in var_names appear more than once (1, for example 'B'). Use `adata.var_names_make_unique()`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        gene_names(section(["A", "B", "B", "B"]), None)


def test_duplicated_symbols_are_rejected_with_their_column():
    adata = section(["ENSG1", "ENSG2", "ENSG3"], symbol=["A", "B", "A"])
    message = (
        "Some gene names in var['symbol'] appear more than once (1, for example 'A'). Use `adata.var['symbol'] = "
        "adata.var['symbol'].astype(object).where(~adata.var['symbol'].duplicated(), adata.var_names)`: the first gene "
        "of each name keeps it, and the others are named by var_names."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        gene_names(adata, "symbol")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", " "])
@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_a_gene_without_a_symbol_is_named_by_var_names(missing, dtype):
    adata = section(["ENSG1", "ENSG2", "ENSG3"], symbol=["A", missing, missing])
    adata.var["symbol"] = adata.var["symbol"].astype(dtype)
    assert gene_names(adata, "symbol").tolist() == ["A", "ENSG2", "ENSG3"]


def advice(adata: ad.AnnData) -> str | None:
    """Return the line of code in the error, or None if there is none."""
    try:
        gene_names(adata, "symbol")
    except ValueError as error:
        return re.search(r"Use `(.*)`", str(error)).group(1)
    return None


def test_the_advice_for_duplicated_symbols_keeps_each_symbol_once():
    adata = section(["ENSG1", "ENSG2", "ENSG3", "ENSG4"], symbol=pd.Categorical(["A", "B", "A", None]))
    exec(advice(adata), {"adata": adata})
    assert gene_names(adata, "symbol").tolist() == ["A", "B", "ENSG3", "ENSG4"]


NAMES = st.sampled_from(["A", "B", "C", "ENSG1", "ENSG2"])


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@given(st.lists(st.tuples(NAMES, NAMES | st.sampled_from([None, ""])), min_size=1, max_size=8))
def test_the_advice_for_duplicated_symbols_leads_to_unique_names(names):
    adata = section([name for name, _ in names], symbol=[symbol for _, symbol in names])
    tried = []
    while (line := advice(adata)) is not None:
        assert line not in tried, "advice that changes nothing"
        tried.append(line)
        exec(line, {"adata": adata})
    assert set(gene_names(adata, "symbol")) >= {symbol for _, symbol in names if symbol}


def test_duplicated_names_are_accepted_where_symbols_are_unique():
    adata = section(["A", "B"], symbol=["x", "y"])
    adata.var_names = ["A", "A"]
    assert gene_names(adata, "symbol").tolist() == ["x", "y"]


# Genes of the model in a section.


def test_genes_are_found_in_any_order():
    shuffled = MODEL[np.random.default_rng(0).permutation(20)]
    assert shuffled[match_genes(MODEL, shuffled)].equals(MODEL)


def test_a_gene_missing_from_the_section_has_no_column():
    columns = match_genes(MODEL, MODEL.drop(["GENE0", "GENE7"]))
    assert np.flatnonzero(columns == -1).tolist() == [0, 7]


def test_a_gene_that_is_not_in_the_model_is_ignored():
    section_genes = pd.Index(["OTHER", *MODEL])
    assert match_genes(MODEL, section_genes).tolist() == list(range(1, 21))


def test_a_tenth_of_the_genes_is_enough_and_less_is_rejected_with_the_coverage():
    assert (match_genes(MODEL, MODEL[:2]) >= 0).sum() == 2
    message = (
        "The section has 1 of the model's 20 genes (5.0%); at least 10%, or 200 genes, are needed (100 if they are "
        "half of the section's). Of the section's own 5 genes, the model knows 20%. The model's genes look like "
        "['GENE0', 'GENE1', 'GENE2'], the section's like ['GENE0', 'X', 'Y']. If a column of var holds the gene names, "
        "pass it as `gene_symbols`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        match_genes(MODEL, pd.Index(["GENE0", "X", "Y", "Z", "U"]))


@pytest.mark.parametrize(
    ("n_known", "n_genes", "accepted"),
    [(200, 1000, True), (199, 1000, False), (100, 200, True), (100, 201, False), (99, 99, False)],
)
def test_a_small_panel_is_accepted_with_200_known_genes_or_100_that_are_half_of_it(n_known, n_genes, accepted):
    model_genes = pd.Index([f"GENE{i}" for i in range(5000)])
    panel = model_genes[:n_known].append(pd.Index([f"OTHER{i}" for i in range(n_genes - n_known)]))
    with nullcontext() if accepted else pytest.raises(GeneMismatchError, match="100 if they are half"):
        assert (match_genes(model_genes, panel) >= 0).sum() == n_known


@pytest.mark.parametrize(("species", "prefix"), [("human", "ENSG"), ("mouse", "ENSMUSG")])
def test_ensembl_identifiers_are_named_with_their_species(species, prefix):
    identifiers = pd.Index([f"{prefix}{i:011}" for i in range(20)])
    with pytest.raises(GeneMismatchError, match=f"Ensembl identifiers of {species} genes.*`gene_symbols`"):
        match_genes(MODEL, identifiers)


def test_for_a_small_panel_of_known_names_a_model_of_its_own_is_suggested():
    hint = " The names match, but the panel is small: train a model on the section itself, `SAGEFM(adata)`."
    with pytest.raises(ValueError, match=f"\\['GENE0'\\]\\.{re.escape(hint)}$"):
        match_genes(MODEL, MODEL[:1])
    with pytest.raises(ValueError, match="pass it as `gene_symbols`"):
        match_genes(MODEL, pd.Index(["GENE0", "A", "B", "C"]))


HINT = (
    " Many names match except for letter case, as mouse and human symbols do; map them to orthologues of the model's "
    "species first."
)


def test_mouse_symbols_are_rejected_with_a_hint():
    with pytest.raises(ValueError, match=re.escape(HINT)):
        match_genes(MODEL, MODEL.str.capitalize())


VERSIONS = (
    " Many names match except for the version after the dot; remove it from both with "
    "`adata.var_names = adata.var_names.str.split('.').str[0]`."
)


@pytest.mark.parametrize("version_of_the_model", ["", ".3"])
def test_identifiers_of_other_versions_are_rejected_with_a_hint(version_of_the_model):
    identifiers = pd.Index([f"ENSG{i:011}" for i in range(20)])
    with pytest.raises(ValueError, match=f"{re.escape(VERSIONS)}$"):
        match_genes(identifiers + version_of_the_model, identifiers + ".12")


@pytest.mark.parametrize(("n_same", "n_genes", "hinted"), [(2, 8, True), (2, 9, False), (1, 3, True), (0, 3, False)])
def test_a_hint_is_given_if_a_quarter_of_the_names_match(n_same, n_genes, hinted):
    mouse = [f"Gene{i}" for i in range(n_same)] + [f"X{i}" for i in range(n_genes - n_same)]
    with pytest.raises(ValueError, match="of the model's 20 genes") as refusal:
        match_genes(MODEL, pd.Index(mouse))
    assert (HINT in str(refusal.value)) == hinted


def test_names_of_another_kind_are_rejected_without_the_hint():
    with pytest.raises(ValueError, match="The section has 0 of the model's 20 genes") as refusal:
        match_genes(MODEL, pd.Index([f"ENSG{i:011}" for i in range(20)]))
    assert HINT not in str(refusal.value)


def test_a_real_mouse_section_is_rejected_for_human_genes_with_a_hint(real_section):
    human, mouse = real_section("her2st_andersson2021__A1"), real_section("mouse_mob_stahl2016__rep12")
    with pytest.raises(ValueError, match=re.escape(HINT)):
        match_genes(human.var_names, mouse.var_names)


def test_real_sections_of_one_species_and_several_panels_match(real_section):
    human = real_section("her2st_andersson2021__A1").var_names
    for name in ("dlpfc_huukimyers2024__Br8325_ant", "dlpfc_maynard2021__151673"):
        panel = real_section(name).var_names
        columns = match_genes(human, panel)
        assert panel[columns[columns >= 0]].equals(human[human.isin(panel)])


# Requested genes.


def test_positions_are_in_the_requested_order():
    assert positions_of(["GENE7", "GENE0"], MODEL).tolist() == [7, 0]


def test_one_gene_may_be_a_string():
    assert positions_of("GENE7", MODEL).tolist() == [7]


def test_genes_may_be_an_iterator():
    assert positions_of((gene for gene in ("GENE1", "GENE2")), MODEL).tolist() == [1, 2]


def test_unknown_genes_are_rejected_with_close_names():
    vocabulary = pd.Index(["CD3E", "CD3D", "MS4A1"])
    message = "2 of 3 requested genes are not in the model: 'CD3' (did you mean CD3E, CD3D?); 'zzz'."
    with pytest.raises(KeyError, match=exactly(message)):
        positions_of(["CD3", "MS4A1", "zzz"], vocabulary)
    with pytest.raises(KeyError, match=exactly("1 of 1 requested genes is not in the model: 'zzz'.")):
        positions_of("zzz", vocabulary)


@pytest.mark.parametrize(("gene", "close"), [("cd3e", "CD3E"), ("Ms4a1", "MS4A1"), ("c1ORF112", "C1orf112")])
def test_close_names_are_found_in_other_letter_case(gene, close):
    with pytest.raises(KeyError, match=re.escape(f"'{gene}' (did you mean {close}?)")):
        positions_of([gene], pd.Index(["CD3E", "MS4A1", "C1orf112"]))


def test_genes_that_differ_only_in_letter_case_are_both_suggested():
    with pytest.raises(KeyError, match=re.escape("(did you mean Abc, ABC?)")):
        positions_of(["abc"], pd.Index(["Abc", "ABC"]))


def test_at_most_three_close_names_are_suggested():
    with pytest.raises(KeyError) as refusal:
        positions_of(["CD3"], pd.Index(["CD3A", "CD3B", "CD3C", "CD3D"]))
    assert len(re.findall("CD3[A-D]", str(refusal.value))) == 3


def test_many_unknown_genes_are_counted_and_the_first_five_named():
    with pytest.raises(KeyError, match="9 of 9 requested genes are not in the model") as refusal:
        positions_of([f"{letter}___" for letter in "abcdefghi"], MODEL)
    assert [letter for letter in "abcdefghi" if f"'{letter}___'" in str(refusal.value)] == list("abcde")


def test_an_empty_list_of_genes_is_rejected():
    with pytest.raises(ValueError, match=exactly("`genes` is empty; pass at least one gene.")):
        positions_of([], MODEL)


def test_a_duplicated_gene_is_rejected():
    message = (
        "Some of the requested genes appear more than once (1, for example 'GENE1'). Use `list(dict.fromkeys(genes))`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        positions_of(["GENE1", "GENE2", "GENE1"], MODEL)
    with pytest.raises(ValueError, match=exactly(message)):
        positions_of(np.array(["GENE1", "GENE2", "GENE1"]), MODEL)
