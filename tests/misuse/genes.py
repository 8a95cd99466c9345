"""Rows about genes."""

import anndata as ad
import numpy as np
from misuse.table import SAME, Gives, Raises, Row, Warns

import sagefm

FEW = "of the model's 60 genes .*at least 10%, or 200 genes, are needed"


def names(w) -> list[str]:
    return list(w.section().var_names)


def shuffled(w) -> bool:
    order = np.random.default_rng(0).permutation(60)
    return w.is_as_expected(w.section()[:, order].copy())


def with_unknown_genes(w) -> bool:
    section = w.section()
    more = section[:, :5].copy()
    more.var_names = [f"OTHER{i}" for i in range(5)]
    both = ad.concat([section, more], axis=1, pairwise=True)
    both.obsm["spatial"] = section.obsm["spatial"]
    both.obsp["spatial_connectivities"] = section.obsp["spatial_connectivities"]
    return w.is_as_expected(both)


def duplicated(w) -> None:
    w.embed(w.renamed([names(w)[1], *names(w)[1:]]))


def with_versions(w) -> None:
    ensembl = w.section()
    ensembl.var_names = [f"ENSG{i:011d}" for i in range(60)]
    sagefm.SAGEFM.setup_anndata(ensembl)
    model = sagefm.SAGEFM(ensembl)
    model.is_trained_ = True
    versioned = w.section()
    versioned.var_names = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(60)]
    model.get_latent_representation(versioned)


def symbols_in_var(w) -> bool:
    section = w.section()
    section.var["symbol"] = names(w)
    section.var_names = [f"ENSG{i:011d}" for i in range(60)]
    weights = w.weights()
    model = sagefm.SAGEFM.from_pretrained(weights, section, gene_symbols="symbol")
    return np.allclose(model.get_latent_representation(), w.expected, atol=1e-5)


def with_symbols(w, symbols: list[str | None]):
    section = w.section()
    section.var["symbol"] = [*names(w)[: 60 - len(symbols)], *symbols]
    section.var_names = [f"ENSG{i:011d}" for i in range(60)]
    return section


def symbols_with_gaps(w) -> bool:
    section = with_symbols(w, [None, ""])
    sagefm.SAGEFM.setup_anndata(section, gene_symbols="symbol")
    return list(sagefm.SAGEFM(section).genes) == [*names(w)[:58], "ENSG00000000058", "ENSG00000000059"]


def doubled_symbols(w) -> None:
    sagefm.SAGEFM.setup_anndata(with_symbols(w, ["A", "A"]), gene_symbols="symbol")


def mended_symbols(w) -> bool:
    section = with_symbols(w, ["A", "A"])
    try:
        sagefm.SAGEFM.setup_anndata(section, gene_symbols="symbol")
    except ValueError as error:
        exec(str(error).split("`")[1], {"adata": section})
    sagefm.SAGEFM.setup_anndata(section, gene_symbols="symbol")
    return list(sagefm.SAGEFM(section).genes) == [*names(w)[:58], "A", "ENSG00000000059"]


def with_proteins(w) -> bool:
    section = w.section()
    section.var["feature_types"] = ["Gene Expression"] * 55 + ["Antibody Capture"] * 5
    sagefm.SAGEFM.setup_anndata(section)
    return True


def half(w) -> bool:
    return np.isfinite(w.embed(w.section()[:, ::2].copy())).all()


def missing_is_not_zero(w) -> bool:
    zero = w.section()
    counts = zero.X.toarray()
    counts[:, ::2] = 0
    zero.X = counts
    return not np.allclose(w.embed(zero), w.embed(w.section()[:, 1::2].copy()))


def numbers(w) -> None:
    section = w.section()
    section.var_names = [str(i) for i in range(60)]
    w.embed(section)


ROWS = [
    Row("genes in another order", shuffled, SAME),
    Row("additional unknown genes", with_unknown_genes, SAME),
    Row("half of the genes", half, Gives("finite results; the log counts the genes found")),
    Row(
        "genes missing from the panel compared with genes whose counts are zero",
        missing_is_not_zero,
        Gives("different results: a missing gene was not measured"),
    ),
    Row("3 % of the genes", lambda w: w.embed(w.section()[:, :2].copy()), Raises(ValueError, FEW)),
    Row(
        "names in lower case",
        lambda w: w.embed(w.renamed([name.lower() for name in names(w)])),
        Raises(ValueError, FEW + ".*match except for letter case"),
    ),
    Row(
        "mouse symbols for a human model",
        lambda w: w.embed(w.renamed([name.capitalize() for name in names(w)])),
        Raises(ValueError, FEW + ".*orthologues of the model's species"),
    ),
    Row(
        "Ensembl identifiers for a model of symbols",
        lambda w: w.embed(w.renamed([f"ENSG{i:011d}" for i in range(60)])),
        Raises(ValueError, FEW + ".*`gene_symbols`"),
    ),
    Row("Ensembl identifiers with versions", with_versions, Raises(ValueError, FEW + ".*match except for the version")),
    Row("symbols in a column of `var`", symbols_in_var, SAME),
    Row(
        "symbols in a column of `var`, some missing", symbols_with_gaps, Gives("`var_names` where a symbol is missing")
    ),
    Row(
        "symbols in a column of `var`, some twice",
        doubled_symbols,
        Raises(ValueError, r"gene names in var\['symbol'\] appear more than once.*duplicated\(\), adata.var_names\)"),
    ),
    Row("the same after the line of that error", mended_symbols, Gives("each symbol once, and `var_names` elsewhere")),
    Row(
        "proteins next to the genes in `X`",
        with_proteins,
        Warns(
            r"5 of 60 features are not genes .*'Antibody Capture'.*adata = adata\[:, adata.var\['feature_types'\] == "
            r"'Gene Expression'\].copy\(\)",
            "results nevertheless",
        ),
    ),
    Row("numbers as names", numbers, Raises(ValueError, FEW + ".*gene_symbols")),
    Row(
        "a duplicated name",
        duplicated,
        Raises(ValueError, "gene names in var_names appear more than once.*var_names_make_unique"),
    ),
    Row(
        "an unknown gene requested",
        lambda w: w.model.impute_masked(genes=[names(w)[9] + "x"]),
        Raises(KeyError, "1 of 1 requested genes is not in the model: .*did you mean"),
    ),
    Row(
        "a gene requested twice",
        lambda w: w.model.impute_masked(genes=[names(w)[0]] * 2),
        Raises(ValueError, "of the requested genes appear more than once"),
    ),
    Row("no gene requested", lambda w: w.model.impute_masked(genes=[]), Raises(ValueError, "`genes` is empty")),
]
