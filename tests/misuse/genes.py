"""Rows about genes."""

import anndata as ad
import numpy as np
from misuse.table import SAME, Gives, Raises, Row

import sagefm

FEW = "genes that the model knows .*at least 10% are needed"


def names(w) -> list[str]:
    return list(w.section().var_names)


def shuffled(w) -> bool:
    order = np.random.default_rng(0).permutation(60)
    return w.is_as_expected(w.section()[:, order].copy())


def unknown_beside(w) -> bool:
    section = w.section()
    more = section[:, :5].copy()
    more.var_names = [f"OTHER{i}" for i in range(5)]
    both = ad.concat([section, more], axis=1, pairwise=True)
    both.obsm["spatial"] = section.obsm["spatial"]
    both.obsp["spatial_connectivities"] = section.obsp["spatial_connectivities"]
    return w.is_as_expected(both)


def doubled(w) -> None:
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
    Row("unknown genes beside the known ones", unknown_beside, SAME),
    Row("half of the genes", half, Gives("finite results; the log says how many genes there are")),
    Row(
        "genes of the panel missing against genes of zeros",
        missing_is_not_zero,
        Gives("different results: what is missing was not measured"),
    ),
    Row("3 % of the genes", lambda w: w.embed(w.section()[:, :2].copy()), Raises(ValueError, FEW)),
    Row(
        "names in lower case",
        lambda w: w.embed(w.renamed([name.lower() for name in names(w)])),
        Raises(ValueError, FEW + ".*but for upper and lower case"),
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
    Row("Ensembl identifiers with versions", with_versions, Raises(ValueError, FEW + ".*but for the version")),
    Row("symbols in a column of `var`", symbols_in_var, SAME),
    Row("numbers for names", numbers, Raises(ValueError, FEW + ".*gene_symbols")),
    Row(
        "a name that stands twice",
        doubled,
        Raises(ValueError, "1 gene names in var_names stand more than once.*var_names_make_unique"),
    ),
    Row(
        "an unknown gene asked for",
        lambda w: w.model.impute_masked(genes=[names(w)[9] + "x"]),
        Raises(KeyError, "The model does not know 1 of the 1 asked genes: .*did you mean"),
    ),
    Row(
        "a gene asked for twice",
        lambda w: w.model.impute_masked(genes=[names(w)[0]] * 2),
        Raises(ValueError, "1 of the asked genes stand more than once"),
    ),
    Row("no gene asked for", lambda w: w.model.impute_masked(genes=[]), Raises(ValueError, "`genes` is empty")),
]
