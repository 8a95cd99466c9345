"""What `setup_anndata` registers and rejects, and that it leaves the user's AnnData unchanged."""

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scvi import REGISTRY_KEYS

import sagefm

setup = sagefm.SAGEFM.setup_anndata


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# Ways to store the same counts.


def with_unsorted_columns(counts: sp.csr_matrix) -> sp.csr_matrix:
    ends = zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
    backwards = np.concatenate([np.arange(start, end)[::-1] for start, end in ends])
    return sp.csr_matrix((counts.data[backwards], counts.indices[backwards], counts.indptr), counts.shape)


def with_stored_zeros(counts: sp.csr_matrix) -> sp.csr_matrix:
    stored = sp.csr_matrix(np.ones(counts.shape, dtype=np.float32))
    stored.data = counts.toarray().ravel()
    return stored


def with_wide_indices(counts: sp.csr_matrix) -> sp.csr_matrix:
    wide = counts.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    return wide


def with_duplicate_entries(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Store each count as two entries, 1 and the rest, of which SciPy takes the sum."""
    pieces = np.c_[np.ones_like(counts.data), counts.data - 1].ravel()
    return sp.csr_matrix((pieces, np.repeat(counts.indices, 2), counts.indptr * 2), counts.shape)


KINDS: dict[str, Callable] = {
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
    "CSC array": sp.csc_array,
    "dense": sp.csr_matrix.toarray,
    "dense by columns": lambda counts: np.asfortranarray(counts.toarray()),
    "sparse integers": lambda counts: counts.astype(np.int64),
    "sparse small integers": lambda counts: counts.astype(np.uint16),
    "dense integers": lambda counts: counts.toarray().astype(np.int32),
    "sparse doubles": lambda counts: counts.astype(np.float64),
    "unsorted columns": with_unsorted_columns,
    "stored zeros": with_stored_zeros,
    "wide indices": with_wide_indices,
    "duplicate entries": with_duplicate_entries,
}
BACKED = ["CSR", "CSC", "dense", "sparse integers", "dense integers"]


def stored_as(adata: ad.AnnData, kind: str, layer: str | None = None) -> ad.AnnData:
    """Return `adata` with its counts stored in another way, in X or in a layer."""
    counts = KINDS[kind](adata.X)
    place = {"X": counts} if layer is None else {"layers": {layer: counts}}
    return ad.AnnData(obs=adata.obs, var=adata.var, obsm={"spatial": adata.obsm["spatial"]}, **place)


@pytest.fixture
def backed(tmp_path: Path):
    opened = []

    def write_and_open(adata: ad.AnnData) -> ad.AnnData:
        adata.write_h5ad(tmp_path / "section.h5ad")
        opened.append(ad.read_h5ad(tmp_path / "section.h5ad", backed="r"))
        return opened[-1]

    yield write_and_open
    for adata in opened:
        adata.file.close()


def state(adata: ad.AnnData, **kwargs: object) -> dict:
    setup(adata, **kwargs)
    manager = sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).adata_manager
    return manager.get_state_registry(REGISTRY_KEYS.X_KEY).to_dict()


def assert_same_state(one: dict, other: dict) -> None:
    assert set(one) == set(other)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


# What is registered.


def test_genes_median_library_size_and_profile_are_registered(adata):
    registered, counts = state(adata), adata.X.toarray()
    assert registered["n_obs"] == adata.n_obs
    assert registered["n_vars"] == adata.n_vars
    assert list(registered["column_names"]) == list(adata.var_names)
    assert registered["target_depth"] == np.median(counts.sum(axis=1))
    np.testing.assert_allclose(registered["profile"], counts.sum(axis=0) / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_in_memory_give_the_same_registry_however_they_are_stored(adata, kind, layer):
    assert_same_state(state(stored_as(adata, kind, layer), layer=layer), state(adata))


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", BACKED)
def test_backed_counts_give_the_same_registry(adata, backed, kind, layer):
    on_disk = backed(stored_as(adata, kind, layer))
    assert_same_state(state(on_disk, layer=layer), state(adata))
    assert on_disk.isbacked


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_of_the_network_does_not_depend_on_how_counts_are_stored(adata, spots_of, kind):
    stored, rows = stored_as(adata, kind), np.arange(adata.n_obs)
    setup(adata)
    setup(stored)
    spots, same = spots_of(adata), spots_of(stored)
    assert np.array_equal(same.counts(rows).toarray(), spots.counts(rows).toarray())
    np.testing.assert_allclose(same.log(rows).toarray(), spots.log(rows).toarray(), rtol=1e-5)
    np.testing.assert_allclose(same.neighborhood_means(rows), spots.neighborhood_means(rows), rtol=1e-5)


def test_a_layer_is_used_instead_of_x(adata, spots_of):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * -0.5
    setup(adata, layer="counts")
    counts = spots_of(adata).counts(np.arange(adata.n_obs))
    assert np.array_equal(counts.toarray(), adata.layers["counts"].toarray())


def test_genes_are_named_by_gene_symbols(adata):
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    assert list(state(adata, gene_symbols="symbol")["column_names"]) == list(adata.var["symbol"])


@pytest.mark.parametrize("dtype", ["category", "str", "int"])
def test_sections_may_be_a_column_of_any_type(adata, spots_of, dtype):
    adata.obs["section"] = pd.Series(np.arange(adata.n_obs) % 2, adata.obs_names).astype(dtype)
    setup(adata, sample_key="section")
    assert spots_of(adata).sections.tolist() == [str(i % 2) for i in range(adata.n_obs)]
    assert sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).summary_stats["n_sections"] == 2


def test_without_sample_key_all_spots_are_one_section(adata, spots_of):
    setup(adata)
    assert len(set(spots_of(adata).sections)) == 1
    assert sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).summary_stats["n_sections"] == 1


# What setup leaves unchanged.


def fingerprint(matrix: object) -> tuple:
    if sp.issparse(matrix):
        return type(matrix), *(fingerprint(getattr(matrix, part)) for part in ("data", "indices", "indptr"))
    return type(matrix), matrix.dtype, matrix.shape, matrix.flags.f_contiguous, matrix.tobytes()


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_keep_their_type_and_every_bit(adata, spots_of, kind, layer):
    stored = stored_as(adata, kind, layer)
    before = stored.X if layer is None else stored.layers[layer]
    print_before = fingerprint(before)
    setup(stored, layer=layer)
    spots = spots_of(stored)
    for read in (spots.counts, spots.log, spots.neighborhood_means):
        read(np.arange(stored.n_obs))
    after = stored.X if layer is None else stored.layers[layer]
    assert after is before
    assert fingerprint(after) == print_before


def test_nothing_but_the_documented_keys_is_added(adata):
    before = adata.copy()
    setup(adata, sample_key="sample")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert set(adata.obsm) == set(before.obsm)
    assert np.array_equal(adata.obsm["spatial"], before.obsm["spatial"])
    assert not adata.layers and not adata.varm and not adata.varp
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}
    assert set(adata.uns) - set(before.uns) == {"_scvi_uuid", "_scvi_manager_uuid"}


def test_a_backed_file_is_not_written_to(adata, backed, tmp_path):
    on_disk = backed(adata)
    before = (tmp_path / "section.h5ad").read_bytes()
    setup(on_disk)
    assert (tmp_path / "section.h5ad").read_bytes() == before


def test_a_second_setup_changes_nothing(adata):
    assert_same_state(state(adata), state(adata))
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}


# Impossible counts.

OUTER_JOIN = (
    " If sections with different panels were concatenated with `join='outer'`, genes that a section did not measure "
    "became NaN, or zeros in a sparse matrix: use `join='inner'`, or train on the files of the sections with "
    "`sagefm.pretraining.Corpus`, and pass one section at a time to the trained model."
)
WRONG = {"negative": -1, "NaN": np.nan, "infinite": np.inf}


def with_value(adata: ad.AnnData, kind: str, value: float) -> sp.csr_matrix | np.ndarray:
    counts = adata.X.toarray()
    counts[adata.n_obs // 2, 7] = value
    return KINDS[kind](sp.csr_matrix(counts))


@pytest.mark.parametrize("kind", ["CSR", "CSC", "dense"])
@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_are_rejected(adata, what, kind):
    adata.X = with_value(adata, kind, WRONG[what])
    message = (
        f"X has 1 or more {what} values; counts must be finite and non-negative. "
        "Pass the layer of the raw counts as `layer`."
    )
    with pytest.raises(ValueError, match=exactly(message + OUTER_JOIN if what == "NaN" else message)):
        setup(adata)


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_in_a_layer_are_rejected_by_its_name(adata, what):
    adata.layers["scaled"] = with_value(adata, "dense", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"layers['scaled'] has 1 or more {what} values;")):
        setup(adata, layer="scaled")


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_in_a_file_are_rejected(adata, backed, what):
    adata.X = with_value(adata, "CSR", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"X has 1 or more {what} values;")):
        setup(backed(adata))


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_in_a_new_section_are_rejected(trained_model, adata, what):
    adata.X = with_value(adata, "CSR", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"X has 1 or more {what} values;")):
        trained_model.get_latent_representation(adata)


def test_fractional_values_warn(adata):
    adata.X = adata.X * 1.25
    n_fractions = int((adata.X.data % 1 != 0).sum())
    message = (
        f"X has {n_fractions} values that are not whole numbers. SAGEFM expects raw counts and normalises them itself; "
        "if these are normalised values, pass the layer of the raw counts as `layer`."
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        setup(adata)


def test_whole_numbers_do_not_warn(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        setup(adata)


@pytest.mark.parametrize("kind", ["CSR", "dense"])
def test_spots_without_counts_are_rejected_with_a_remedy(adata, kind):
    counts = adata.X.toarray()
    counts[[5, 9]] = 0
    adata.X = KINDS[kind](sp.csr_matrix(counts))
    message = (
        f"2 of {adata.n_obs} spots have no counts in X, for example {adata.obs_names[5]!r}. "
        "Remove them with `scanpy.pp.filter_cells(adata, min_counts=1)`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


def test_an_anndata_without_spots_is_rejected(adata):
    with pytest.raises(ValueError, match=exactly("X has shape (0, 150): there are no spots.")):
        setup(adata[:0].copy())


def test_an_anndata_without_x_is_rejected_and_its_layers_listed(adata):
    stored = stored_as(adata, "CSR", layer="counts")
    message = "The AnnData has no X; pass `layer='counts'`, which holds whole numbers. Its layers are ['counts']."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(stored)


# Where the raw counts are.


def normalised(adata: ad.AnnData, **layers: object) -> ad.AnnData:
    """Return `adata` with normalised values in X, no raw, and some layers."""
    adata.X = adata.X * 0.3
    adata.layers.update(layers)
    return adata


def warned(adata: ad.AnnData, **kwargs: object) -> str:
    with pytest.warns(UserWarning, match="values that are not whole numbers") as caught:
        setup(adata, **kwargs)
    return str(caught[0].message)


def test_the_only_layer_of_whole_numbers_is_suggested(adata):
    layers = {"counts": adata.X.copy(), "scaled": adata.X * -0.5, "mask": adata.X > 0, "zeros": adata.X * 0}
    assert "if these are normalised values, pass `layer='counts'`, which holds" in warned(normalised(adata, **layers))


def test_several_layers_of_whole_numbers_are_listed(adata):
    adata = normalised(adata, spliced=adata.X.copy(), unspliced=adata.X.copy())
    assert "pass the layer of the raw counts as `layer`, one of ['spliced', 'unspliced'], which hold" in warned(adata)


def test_x_is_suggested_if_it_holds_the_whole_numbers(adata):
    adata.layers["normalised"] = adata.X * 0.3
    assert "leave out `layer`: X holds whole numbers." in warned(adata, layer="normalised")


def in_raw(adata: ad.AnnData) -> ad.AnnData:
    adata.raw = adata.copy()
    adata.X = adata.X * 0.3
    return adata


def test_counts_in_raw_are_suggested_with_a_line_that_works(adata, spots_of):
    counts = adata.X.toarray()
    hidden = in_raw(adata)[:, :50].copy()
    assert "use the whole numbers in adata.raw: `adata = adata.raw.to_adata()`." in warned(hidden)
    found = hidden.raw.to_adata()
    setup(found)
    assert np.array_equal(spots_of(found).counts(np.arange(found.n_obs)).toarray(), counts)


def test_raw_without_whole_numbers_is_not_suggested(adata):
    adata = normalised(adata)
    adata.raw = adata.copy()
    assert "adata.raw" not in warned(adata)


# Features that are not genes.

PROTEINS = (
    "5 of 150 features are not genes (var['feature_types'] is 'Antibody Capture'), but hold 50% of the counts: library "
    "sizes and predictions depend on them. To leave them out: "
    "`adata = adata[:, adata.var['feature_types'] == 'Gene Expression'].copy()`."
)


@pytest.fixture
def with_proteins(adata) -> ad.AnnData:
    counts = adata.X.toarray()
    counts[:, :5] = 0
    counts[:, :5] = counts.sum(axis=1, keepdims=True) / 5
    adata.X = np.round(counts)
    adata.var["feature_types"] = pd.Categorical(["Antibody Capture"] * 5 + ["Gene Expression"] * 145)
    return adata


def test_features_that_are_not_genes_warn_with_a_line_that_leaves_them_out(with_proteins):
    with pytest.warns(UserWarning, match=exactly(PROTEINS)):
        setup(with_proteins)
    adata = with_proteins[:, with_proteins.var["feature_types"] == "Gene Expression"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        setup(adata)
    assert adata.n_vars == 145


@pytest.mark.parametrize("kinds", [["Gene Expression"] * 150, ["Antibody Capture"] * 150, ["gene", None] * 75])
def test_features_of_one_kind_do_not_warn(adata, kinds):
    adata.var["feature_types"] = kinds
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        setup(adata)


def test_proteins_next_to_the_genes_of_a_model_do_not_warn(trained_model, adata):
    adata.var["feature_types"] = "Gene Expression"
    proteins = adata[:, :5].copy()
    proteins.var_names, proteins.var["feature_types"] = [f"P{i}" for i in range(5)], "Antibody Capture"
    both = ad.concat([adata, proteins], axis=1, merge="first")
    both.obsm["spatial"] = adata.obsm["spatial"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained_model.get_latent_representation(both)


# Genes that were not measured in some sections.


def outer_join(adata: ad.AnnData, n_missing: int, *, dense: bool = False) -> ad.AnnData:
    """Return two sections in one AnnData; the second panel lacks the genes with most counts."""
    adata = adata[:, np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())].copy()
    parts = {"one": adata, "two": adata[:, n_missing:].copy()}
    for part in parts.values():
        part.X = part.X.toarray() if dense else part.X
        del part.obs["sample"]
    return ad.concat(parts, label="sample", index_unique="-", join="outer")


@pytest.mark.parametrize("kwargs", [{"sample_key": "sample"}, {}], ids=["sample_key", "a column that names sections"])
def test_genes_without_a_count_in_one_section_and_many_in_another_warn(adata, kwargs):
    both = outer_join(adata, 10)
    both.obsm["spatial"][both.obs["sample"] == "two"] += 1000
    first = both.var_names[np.asarray(both.X.sum(axis=0)).argmax()]
    message = (
        r"^10 of 150 genes have no count in section 'two', although at least 50 of each were expected from the other "
        rf"sections; for example '{first}', with {both[:, first].X.sum():.0f} counts there\. "
        rf"Ignore this if they are not expressed in it\.{re.escape(OUTER_JOIN)}$"
    )
    with pytest.warns(UserWarning, match=message):
        setup(both, **kwargs)


@pytest.mark.parametrize("n_missing", [0, 2])
def test_a_few_genes_without_a_count_do_not_warn(adata, n_missing):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        setup(outer_join(adata, n_missing), sample_key="sample")


def test_nan_of_an_outer_join_has_the_same_advice(adata):
    with pytest.raises(ValueError, match=re.escape(OUTER_JOIN)):
        setup(outer_join(adata, 10, dense=True), sample_key="sample")


@pytest.mark.parametrize(
    "names",
    [["her2st_andersson2021__A1", "her2st_andersson2021__B1"], ["brain_ma2025__T2465", "brain_ma2025__T4424"]],
    ids=["her2st", "brain"],
)
def test_real_sections_of_one_tissue_do_not_warn(real_section, names):
    both = ad.concat({name: real_section(name) for name in names}, label="sample", index_unique="-", join="outer")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*have no count in section")
        setup(both, sample_key="sample")


def test_real_panels_that_differ_warn(real_section):
    names = ["dlpfc_huukimyers2024__Br8325_ant", "dlpfc_maynard2021__151673"]
    both = ad.concat({name: real_section(name) for name in names}, label="sample", index_unique="-", join="outer")
    with pytest.warns(UserWarning, match="genes have no count in section 'dlpfc_huukimyers2024__Br8325_ant'"):
        setup(both, sample_key="sample")


# Missing and duplicated names.


def test_an_unknown_layer_is_rejected_and_the_layers_listed(adata):
    adata.layers["counts"] = adata.X
    adata.layers["scaled"] = adata.X
    message = "layer='count' is not in layers; found ['counts', 'scaled']."
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, layer="count")


def test_an_unknown_sample_key_is_rejected_and_the_columns_listed(adata):
    message = "sample_key='patient' is not a column of obs; found ['array_row', 'array_col', 'annotation', 'sample']."
    assert list(adata.obs) == ["array_row", "array_col", "annotation", "sample"]
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, sample_key="patient")


def test_an_unknown_gene_symbols_is_rejected_and_the_columns_listed(adata):
    adata.var = adata.var[["role"]].assign(symbol="x")
    message = "gene_symbols='symbols' is not a column of var; found ['role', 'symbol']."
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, gene_symbols="symbols")


def test_an_unknown_spatial_key_is_rejected_and_the_keys_listed(adata):
    with pytest.raises(KeyError, match=re.escape("obsm has no 'pixels'; found ['programmes', 'spatial'].")):
        setup(adata, spatial_key="pixels")


@pytest.mark.parametrize("missing", [None, np.nan])
def test_spots_without_a_section_are_rejected(adata, missing):
    adata.obs["section"] = ["a"] * (adata.n_obs - 2) + [missing] * 2
    message = "obs['section'] is missing for 2 spots; every spot needs a section."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata, sample_key="section")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_duplicated_spot_names_are_rejected(adata):
    adata.obs_names = ["spot", "spot", *adata.obs_names[2:]]
    message = (
        "Some spot names in obs_names appear more than once (1, for example 'spot'). Use "
        "`adata.obs_names_make_unique()`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicated_gene_names_are_rejected(adata):
    adata.var_names = ["gene", "gene", *adata.var_names[2:]]
    message = (
        "Some gene names in var_names appear more than once (1, for example 'gene'). Use "
        "`adata.var_names_make_unique()`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


# A section that is new to the model.


def transferred(adata: ad.AnnData, new: ad.AnnData, **kwargs: object) -> dict:
    setup(adata, **kwargs)
    manager = sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).adata_manager
    return manager.transfer_fields(new).get_state_registry(REGISTRY_KEYS.X_KEY).to_dict()


def test_a_new_section_keeps_the_genes_and_constants_of_the_model(adata):
    new = adata[:60, ::-1].copy()
    new.X = new.X * 3
    before = state(adata)
    assert_same_state(transferred(adata, new), before | {"n_obs": 60})


def test_the_share_of_known_genes_is_logged(adata, caplog):
    new = adata[:, 30:].copy()
    with caplog.at_level(logging.INFO, "sagefm"):
        transferred(adata, new)
    lines = [record.getMessage() for record in caplog.records if record.name == "sagefm"]
    assert "120 of the model's 150 genes (80.0%) are in the section." in lines


def test_too_few_known_genes_are_rejected_with_the_coverage(adata):
    new = adata.copy()
    new.var_names = [f"OTHER{i}" for i in range(150)]
    with pytest.raises(ValueError, match=re.escape("The section has 0 of the model's 150 genes (0.0%);")):
        transferred(adata, new)


def test_sections_may_be_new(adata):
    new = adata.copy()
    new.obs["sample"] = "new"
    transferred(adata, new, sample_key="sample")
