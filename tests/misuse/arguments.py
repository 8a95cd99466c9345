"""Rows about keys, masks, devices, and arguments of the model."""

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from misuse.table import Gives, Raises, Row, Warns

import sagefm

setup = sagefm.SAGEFM.setup_anndata


def untrained(w, **kwargs) -> sagefm.SAGEFM:
    section = w.section()
    setup(section)
    return sagefm.SAGEFM(section, **kwargs)


def original_of_a_copy(w) -> None:
    section = w.section()
    section.obs["kind"] = "a"
    setup(section)
    setup(section.copy(), sample_key="kind")
    sagefm.SAGEFM(section)


def copy_after_setup(w) -> None:
    section = w.section()
    setup(section)
    sagefm.SAGEFM(section.copy())


def in_mixed_precision(w) -> bool:
    for precision in ("16-mixed", "bf16-mixed", 16, "bf16", 32, "32-true"):
        trained = untrained(w, n_hidden=8, n_latent=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's own advice about 16-bit types on a CPU
            trained.train(1, accelerator="cpu", enable_progress_bar=False, precision=precision)
        if not np.isfinite(trained.get_latent_representation()).all():
            return False
    return True


def unassigned_spots(w) -> None:
    section = w.section()
    section.obs["sample"] = pd.Categorical(["A"] * 32 + [None] * 32)
    setup(section, sample_key="sample")


def doubled_spots(w) -> None:
    section = w.section()
    section.obs_names = ["spot"] * 64
    setup(section)


def mask(w, shape=(64, 60), dtype=bool) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) < 0.1).astype(dtype)


def reordered_data_frame(w) -> None:
    section = w.section()
    frame = pd.DataFrame(mask(w), index=section.obs_names, columns=section.var_names)
    return w.model.impute_masked(section, mask=frame.iloc[:, ::-1])


def data_frame(w) -> bool:
    section = w.section()
    frame = pd.DataFrame(mask(w), index=section.obs_names, columns=section.var_names)
    return w.model.impute_masked(section, mask=frame).equals(w.model.impute_masked(section, mask=mask(w)))


def sparse_mask(w) -> bool:
    section = w.section()
    sparse = w.model.impute_masked(section, mask=sp.csr_matrix(mask(w)))
    return bool((sparse.data == w.model.impute_masked(section, mask=mask(w)).to_numpy()[mask(w)]).all())


def everything(w) -> bool:
    return np.isfinite(w.model.impute_masked(w.section(), mask=np.ones((64, 60), bool)).to_numpy()).all()


def nothing(w) -> bool:
    return w.model.impute_masked(w.section(), mask=np.zeros((64, 60), bool)).isna().all(axis=None)


def unknown_masked(w) -> bool:
    section = w.section()
    section.var_names = [*section.var_names[:-1], "OTHER"]
    recovered = w.model.impute_masked(section, mask=np.ones((64, 60), bool))
    return recovered["OTHER"].isna().all() and recovered.iloc[:, :-1].notna().all(axis=None)


def counted_from_the_end(w) -> bool:
    section = w.section()
    return np.array_equal(
        w.model.get_latent_representation(section, indices=[-1], key_added=None),
        w.model.get_latent_representation(section, indices=[63], key_added=None),
    )


def of_any_integer_type(w) -> bool:
    chosen = [
        w.model.get_latent_representation(w.section(), indices=np.array([60, 3], dtype), key_added=None)
        for dtype in ("int8", "uint8", "int32", "uint32", "int64", "uint64")
    ]
    return all(np.array_equal(rows, chosen[0]) for rows in chosen)


def embed(w, **kwargs) -> None:
    w.model.get_latent_representation(w.section(), key_added=None, **kwargs)


def train(w, **kwargs) -> None:
    untrained(w).train(**{"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, **kwargs})


ROWS = [
    Row(
        "a matrix instead of an AnnData at setup",
        lambda w: setup(w.section().X),
        Raises(TypeError, "`adata` must be an AnnData; found csr_matrix"),
    ),
    Row(
        "an AnnData that was not set up",
        lambda w: sagefm.SAGEFM(w.section()),
        Raises(ValueError, "Please set up your AnnData with SAGEFM.setup_anndata first"),
    ),
    Row(
        "a copy that was set up, then a model of the original",
        original_of_a_copy,
        Raises(ValueError, r"not the object that was set up.*Call `SAGEFM.setup_anndata\(adata, sample_key='kind'\)`"),
    ),
    Row(
        "a model of a copy",
        copy_after_setup,
        Raises(ValueError, r"not the object that was set up, but a copy of it.*Call `SAGEFM.setup_anndata\(adata\)`"),
    ),
    Row(
        "results of an untrained model",
        lambda w: untrained(w).get_latent_representation(),
        Raises(RuntimeError, "untrained; its results would be noise.*train"),
    ),
    Row(
        "a `layer` that does not exist",
        lambda w: setup(w.section(), layer="raw"),
        Raises(KeyError, "layer='raw' is not in layers; found"),
    ),
    Row(
        "a `sample_key` that does not exist",
        lambda w: setup(w.section(), sample_key="slide"),
        Raises(KeyError, "sample_key='slide' is not a column of obs; found"),
    ),
    Row(
        "a section that is missing for half of the spots",
        unassigned_spots,
        Raises(ValueError, "is missing for 32 spots; every spot needs a section"),
    ),
    Row(
        "a `gene_symbols` column that does not exist",
        lambda w: setup(w.section(), gene_symbols="symbol"),
        Raises(KeyError, "gene_symbols='symbol' is not a column of var; found"),
    ),
    Row(
        "a `spatial_key` that does not exist, without a graph",
        lambda w: setup(w.section(), spatial_key="xy", neighbors_key="mine"),
        Raises(KeyError, "obsm has no 'xy'"),
    ),
    Row(
        "duplicated spot names",
        doubled_spots,
        Raises(ValueError, "spot names in obs_names appear more than once.*obs_names_make_unique"),
    ),
    Row(
        "a matrix instead of an AnnData",
        lambda w: w.model.get_latent_representation(w.section().X),
        Raises(TypeError, "`adata` must be an AnnData; found csr_matrix"),
    ),
    Row(
        "an unknown `conv`",
        lambda w: untrained(w, conv="gat"),
        Raises(ValueError, "conv='gat' is not known; it is one of 'sage', 'gcn'"),
    ),
    Row(
        "`mask_fraction` of 1",
        lambda w: untrained(w, mask_fraction=1),
        Raises(ValueError, "mask_fraction=1 must lie between 0 and 1"),
    ),
    Row(
        "`dropout_rate` below 0",
        lambda w: untrained(w, dropout_rate=-0.1),
        Raises(ValueError, "dropout_rate=-0.1 must be at least 0 and below 1"),
    ),
    Row(
        "`n_latent` of 0", lambda w: untrained(w, n_latent=0), Raises(ValueError, r"positive widths; found \[256, 0\]")
    ),
    Row(
        "`train_size` of 2",
        lambda w: train(w, train_size=2),
        Raises(ValueError, "train_size=2 must be above 0 and at most 1"),
    ),
    Row(
        "`batch_size` of 0 in training",
        lambda w: train(w, batch_size=0),
        Raises(ValueError, "batch_size should be a positive integer value, but got batch_size=0"),
    ),
    Row(
        "`max_epochs` of 0",
        lambda w: train(w, max_epochs=0),
        Raises(ValueError, "max_epochs=0 must be a whole number, 1 or more"),
    ),
    *(
        Row(
            f'`precision="{precision}"` in training',
            lambda w, precision=precision: train(w, precision=precision),
            Raises(
                ValueError, f'precision=\'{precision}\' changes the type of the weights.*"bf16-mixed" or "16-mixed"'
            ),
        )
        for precision in ("16-true", "bf16-true", "64-true")
    ),
    Row("mixed precision in training", in_mixed_precision, Gives("finite results")),
    Row("an accelerator that does not exist", lambda w: train(w, accelerator="abacus"), Raises(ValueError, "abacus")),
    Row(
        "`batch_size` of 0 when embedding",
        lambda w: embed(w, batch_size=0),
        Raises(ValueError, "batch_size=0 must be a whole number, 1 or more"),
    ),
    Row(
        "`batch_size` below 0 when embedding",
        lambda w: embed(w, batch_size=-5),
        Raises(ValueError, "batch_size=-5 must be a whole number, 1 or more"),
    ),
    Row(
        "indices beyond the last spot",
        lambda w: embed(w, indices=[64]),
        Raises(IndexError, "`indices` range from 64 to 64, but there are 64 spots"),
    ),
    Row("indices of any integer type, `uint64` too", of_any_integer_type, Gives("the same spots")),
    Row(
        "`uint64` indices beyond the last spot",
        lambda w: embed(w, indices=np.array([2**63], np.uint64)),
        Raises(IndexError, "`indices` range from 9223372036854775808 to .*, but there are 64 spots"),
    ),
    Row("negative indices", counted_from_the_end, Gives("positions from the end, as in NumPy")),
    Row(
        "spot names as indices",
        lambda w: embed(w, indices=["a"]),
        Raises(ValueError, "`indices` must be positions of spots or a boolean array of length 64"),
    ),
    Row(
        "fractions as indices",
        lambda w: embed(w, indices=[0.5]),
        Raises(ValueError, "`indices` must be positions of spots"),
    ),
    Row("no indices", lambda w: embed(w, indices=[]), Raises(ValueError, "`indices` must be positions of spots")),
    Row(
        "boolean indices that are all False",
        lambda w: embed(w, indices=np.zeros(64, bool)),
        Raises(ValueError, "`indices` is a boolean array without a True"),
    ),
    Row(
        "boolean indices of another length",
        lambda w: embed(w, indices=np.ones(63, bool)),
        Raises(ValueError, r"boolean array of length 64; found bool of shape \(63,\)"),
    ),
    Row(
        "neither `genes` nor `mask`",
        lambda w: w.model.impute_masked(),
        Raises(ValueError, "Pass either `genes`, .* or `mask`, .* not both"),
    ),
    Row(
        "`genes` and `mask`",
        lambda w: w.model.impute_masked(genes=["A"], mask=mask(w)),
        Raises(ValueError, "Pass either `genes`, .* or `mask`, .* not both"),
    ),
    Row(
        "a mask of another shape",
        lambda w: w.model.impute_masked(w.section(), mask=mask(w, (60, 64))),
        Raises(ValueError, r"`mask` has shape \(60, 64\); expected \(64, 60\), spots by genes of the section"),
    ),
    Row(
        "a mask of numbers",
        lambda w: w.model.impute_masked(w.section(), mask=mask(w, dtype=float)),
        Raises(ValueError, "`mask` must be boolean, .*float64"),
    ),
    Row(
        "a DataFrame as mask, with names in another order",
        reordered_data_frame,
        Raises(
            ValueError,
            "`mask` is a DataFrame whose row and column names are not those of the section in the same order",
        ),
    ),
    Row("a DataFrame as mask", data_frame, Gives("the same as the array")),
    Row("a sparse mask", sparse_mask, Gives("a sparse matrix with the values that the array gives")),
    Row("a mask of all entries", everything, Gives("finite predictions")),
    Row("a mask of no entries", nothing, Gives("NaN everywhere")),
    Row(
        "a mask that includes a gene that is not in the model",
        unknown_masked,
        Warns(
            "64 entries of `mask` are of genes that are not in the model, for example 'OTHER'",
            "NaN there, predictions elsewhere",
        ),
    ),
    Row(
        "an unknown `scale`",
        lambda w: w.model.impute_masked(genes=["A"], scale="log2"),
        Raises(ValueError, "scale='log2' is not known; it is one of 'log1p', 'counts'"),
    ),
    Row(
        "an unknown `level`",
        lambda w: w.model.impute_masked(genes=["A"], level="own"),
        Raises(ValueError, "level='own' is not known; it is one of 'section', 'training'"),
    ),
    Row(
        "a library size of 0 for `get_normalized_expression`",
        lambda w: w.model.get_normalized_expression(library_size=0),
        Raises(ValueError, "library_size=0 must be a positive number or 'latent'"),
    ),
    Row(
        "`get_normalized_expression` for a gene missing from the panel",
        lambda w: w.model.get_normalized_expression(w.section()[:, 1:].copy(), genes=[w.section().var_names[0]]),
        Raises(ValueError, "1 requested genes are not in the section.* no counts to denoise.*impute_masked"),
    ),
    Row(
        "`mask_fraction` of 0 in `get_masked_recovery`",
        lambda w: w.model.get_masked_recovery(mask_fraction=0),
        Raises(ValueError, "mask_fraction=0 must lie between 0 and 1"),
    ),
]
