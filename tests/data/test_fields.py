"""What `setup_anndata` registers, what it refuses by name, and that it leaves the user's AnnData as it was."""

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


# Ways to hold the same counts.


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


def in_two_pieces(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Store each count twice, as one and the rest, which SciPy takes for their sum."""
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
    "in two pieces": in_two_pieces,
}
BACKED = ["CSR", "CSC", "dense", "sparse integers", "dense integers"]


def holding(adata: ad.AnnData, kind: str, layer: str | None = None) -> ad.AnnData:
    """Return `adata` with its counts held in another way, in X or in a layer."""
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


def test_genes_depth_and_profile_are_those_of_the_counts(adata):
    registered, counts = state(adata), adata.X.toarray()
    assert registered["n_obs"] == adata.n_obs
    assert registered["n_vars"] == adata.n_vars
    assert list(registered["column_names"]) == list(adata.var_names)
    assert registered["target_depth"] == np.median(counts.sum(axis=1))
    np.testing.assert_allclose(registered["profile"], counts.sum(axis=0) / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_any_kind_in_memory_give_the_same_registry(adata, kind, layer):
    assert_same_state(state(holding(adata, kind, layer), layer=layer), state(adata))


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", BACKED)
def test_backed_counts_give_the_same_registry(adata, backed, kind, layer):
    on_disk = backed(holding(adata, kind, layer))
    assert_same_state(state(on_disk, layer=layer), state(adata))
    assert on_disk.isbacked


@pytest.mark.parametrize("kind", KINDS)
def test_however_counts_are_stored_the_network_reads_the_same(adata, spots_of, kind):
    held, rows = holding(adata, kind), np.arange(adata.n_obs)
    setup(adata)
    setup(held)
    spots, same = spots_of(adata), spots_of(held)
    assert np.array_equal(same.counts(rows).toarray(), spots.counts(rows).toarray())
    np.testing.assert_allclose(same.log(rows).toarray(), spots.log(rows).toarray(), rtol=1e-5)
    np.testing.assert_allclose(same.neighborhood_means(rows), spots.neighborhood_means(rows), rtol=1e-5)


def test_a_layer_is_read_and_x_is_not(adata, spots_of):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * -0.5
    setup(adata, layer="counts")
    counts = spots_of(adata).counts(np.arange(adata.n_obs))
    assert np.array_equal(counts.toarray(), adata.layers["counts"].toarray())


def test_genes_go_by_their_symbols(adata):
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    assert list(state(adata, gene_symbols="symbol")["column_names"]) == list(adata.var["symbol"])


@pytest.mark.parametrize("dtype", ["category", "str", "int"])
def test_a_column_of_any_type_tells_sections_apart(adata, spots_of, dtype):
    adata.obs["section"] = pd.Series(np.arange(adata.n_obs) % 2, adata.obs_names).astype(dtype)
    setup(adata, sample_key="section")
    assert spots_of(adata).sections.tolist() == [str(i % 2) for i in range(adata.n_obs)]
    assert sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).summary_stats["n_sections"] == 2


def test_without_sample_key_all_spots_are_one_section(adata, spots_of):
    setup(adata)
    assert len(set(spots_of(adata).sections)) == 1
    assert sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).summary_stats["n_sections"] == 1


# What setting up leaves alone.


def fingerprint(matrix: object) -> tuple:
    if sp.issparse(matrix):
        return type(matrix), *(fingerprint(getattr(matrix, part)) for part in ("data", "indices", "indptr"))
    return type(matrix), matrix.dtype, matrix.shape, matrix.flags.f_contiguous, matrix.tobytes()


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_stay_bit_for_bit_and_of_their_type(adata, spots_of, kind, layer):
    held = holding(adata, kind, layer)
    before = held.X if layer is None else held.layers[layer]
    print_before = fingerprint(before)
    setup(held, layer=layer)
    spots = spots_of(held)
    for read in (spots.counts, spots.log, spots.neighborhood_means):
        read(np.arange(held.n_obs))
    after = held.X if layer is None else held.layers[layer]
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


def test_setting_up_twice_is_the_same_as_once(adata):
    assert_same_state(state(adata), state(adata))
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}


# Counts that cannot be counts.

WRONG = {"negative": -1, "NaN": np.nan, "infinite": np.inf}


def with_value(adata: ad.AnnData, kind: str, value: float) -> sp.csr_matrix | np.ndarray:
    counts = adata.X.toarray()
    counts[adata.n_obs // 2, 7] = value
    return KINDS[kind](sp.csr_matrix(counts))


@pytest.mark.parametrize("kind", ["CSR", "CSC", "dense"])
@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_are_refused(adata, what, kind):
    adata.X = with_value(adata, kind, WRONG[what])
    message = (
        f"X has 1 or more {what} values; counts are finite and not negative. "
        "Name the layer of the raw counts with `layer`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_are_refused_in_a_layer_by_its_name(adata, what):
    adata.layers["scaled"] = with_value(adata, "dense", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"layers['scaled'] has 1 or more {what} values;")):
        setup(adata, layer="scaled")


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_are_refused_in_a_file(adata, backed, what):
    adata.X = with_value(adata, "CSR", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"X has 1 or more {what} values;")):
        setup(backed(adata))


@pytest.mark.parametrize("what", WRONG)
def test_impossible_counts_are_refused_in_a_new_section(trained_model, adata, what):
    adata.X = with_value(adata, "CSR", WRONG[what])
    with pytest.raises(ValueError, match=re.escape(f"X has 1 or more {what} values;")):
        trained_model.get_latent_representation(adata)


def test_values_that_are_not_whole_numbers_warn(adata):
    adata.X = adata.X * 1.25
    n_fractions = int((adata.X.data % 1 != 0).sum())
    message = (
        f"X has {n_fractions} values that are not whole numbers. SAGEFM wants raw counts and normalises them itself; "
        "if these are normalised values, name the layer of the counts with `layer`."
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        setup(adata)


def test_whole_numbers_do_not_warn(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        setup(adata)


@pytest.mark.parametrize("kind", ["CSR", "dense"])
def test_spots_without_counts_are_refused_with_a_remedy(adata, kind):
    counts = adata.X.toarray()
    counts[[5, 9]] = 0
    adata.X = KINDS[kind](sp.csr_matrix(counts))
    message = (
        f"2 of {adata.n_obs} spots have no counts in X, for example {adata.obs_names[5]!r}. "
        "Remove them with `scanpy.pp.filter_cells(adata, min_counts=1)`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


def test_an_anndata_without_spots_is_refused(adata):
    with pytest.raises(ValueError, match=exactly("X has shape (0, 150): there are no spots.")):
        setup(adata[:0].copy())


def test_an_anndata_without_x_is_refused_with_the_layers_there_are(adata):
    held = holding(adata, "CSR", layer="counts")
    message = "The AnnData has no X; name the layer of the counts, one of ['counts']."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(held)


# Names that are not there, or stand twice.


def test_a_wrong_layer_is_refused_with_the_layers_there_are(adata):
    adata.layers["counts"] = adata.X
    adata.layers["scaled"] = adata.X
    message = "layer='count' is not in layers; there are ['counts', 'scaled']."
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, layer="count")


def test_a_wrong_sample_key_is_refused_with_the_columns_there_are(adata):
    message = (
        "sample_key='patient' is not a column of obs; there are ['array_row', 'array_col', 'annotation', 'sample']."
    )
    assert list(adata.obs) == ["array_row", "array_col", "annotation", "sample"]
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, sample_key="patient")


def test_a_wrong_gene_symbols_is_refused_with_the_columns_there_are(adata):
    adata.var = adata.var[["role"]].assign(symbol="x")
    message = "gene_symbols='symbols' is not a column of var; it has ['role', 'symbol']."
    with pytest.raises(KeyError, match=exactly(message)):
        setup(adata, gene_symbols="symbols")


def test_a_wrong_spatial_key_is_refused_with_the_keys_there_are(adata):
    with pytest.raises(KeyError, match=re.escape("obsm has no 'pixels' (it has ['programmes', 'spatial'])")):
        setup(adata, spatial_key="pixels")


@pytest.mark.parametrize("missing", [None, np.nan])
def test_spots_without_a_section_are_refused(adata, missing):
    adata.obs["section"] = ["a"] * (adata.n_obs - 2) + [missing] * 2
    message = "obs['section'] is missing for 2 spots; every spot needs a section."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata, sample_key="section")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_two_spots_of_one_name_are_refused(adata):
    adata.obs_names = ["spot", "spot", *adata.obs_names[2:]]
    message = "1 spot names in obs_names stand more than once, for example 'spot'. Try `adata.obs_names_make_unique()`."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_two_genes_of_one_name_are_refused(adata):
    adata.var_names = ["gene", "gene", *adata.var_names[2:]]
    message = "1 gene names in var_names stand more than once, for example 'gene'. Try `adata.var_names_make_unique()`."
    with pytest.raises(ValueError, match=exactly(message)):
        setup(adata)


# A section that is new to a model.


def transferred(adata: ad.AnnData, new: ad.AnnData, **kwargs: object) -> dict:
    setup(adata, **kwargs)
    manager = sagefm.SAGEFM(adata, n_hidden=2, n_latent=2).adata_manager
    return manager.transfer_fields(new).get_state_registry(REGISTRY_KEYS.X_KEY).to_dict()


def test_the_models_genes_and_constants_outlive_a_new_section(adata):
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


def test_too_few_known_genes_are_refused_with_the_coverage(adata):
    new = adata.copy()
    new.var_names = [f"OTHER{i}" for i in range(150)]
    with pytest.raises(ValueError, match=re.escape("The section has 0 of the 150 genes that the model knows (0.0%);")):
        transferred(adata, new)


def test_sections_may_be_new(adata):
    new = adata.copy()
    new.obs["sample"] = "never seen"
    transferred(adata, new, sample_key="sample")
