"""Counts of every type, in every container, give the same results as float32 in CSR."""

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import scvi

import sagefm

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
TYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]


def compressed(counts: np.ndarray, kind: type) -> sp.spmatrix | sp.sparray:
    """Return a sparse matrix of any type; SciPy does not convert float16."""
    whole = kind(counts.astype(np.float32))
    return kind((whole.data.astype(counts.dtype), whole.indices, whole.indptr), shape=whole.shape)


def chunked(counts: np.ndarray, kind: type) -> da.Array:
    return da.from_array(counts, chunks=(20, -1)).map_blocks(lambda block: compressed(block, kind))


CONTAINERS: dict[str, Callable[[np.ndarray], object]] = {
    "CSR": lambda counts: compressed(counts, sp.csr_matrix),
    "CSC": lambda counts: compressed(counts, sp.csc_matrix),
    "CSR array": lambda counts: compressed(counts, sp.csr_array),
    "CSC array": lambda counts: compressed(counts, sp.csc_array),
    "dense": np.array,
    "dense by columns": np.asfortranarray,
    "matrix": np.matrix,
    "dask": lambda counts: da.from_array(counts, chunks=(20, 25)),
    "dask of CSR": lambda counts: chunked(counts, sp.csr_matrix),
    "dask of CSC arrays": lambda counts: chunked(counts, sp.csc_array),
}
ON_DISK = ["CSR", "CSC", "dense"]


def read_backed(path: Path) -> ad.AnnData:
    return ad.read_h5ad(path, backed="r")


READERS = {"backed": read_backed, "lazy": ad.experimental.read_lazy}


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    section = sagefm.datasets.simulated_tissue(8, 8, n_genes=60, n_layers=2, n_niches=1, n_interactions=1)
    section.X = np.minimum(section.X.toarray(), 120)  # every type holds them
    return section


def with_counts(section: ad.AnnData, counts: object) -> ad.AnnData:
    return ad.AnnData(counts, obs=section.obs, var=section.var, obsm={"spatial": section.obsm["spatial"]})


def results(adata: ad.AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the model returns, from setup to every getter."""
    scvi.settings.seed = 0
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=4)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    genes, mask = list(adata.var_names[:3]), np.random.default_rng(0).random(adata.shape) < 0.2
    tables = {
        "losses": model.history["validation_loss"],
        "genes": model.impute_masked(genes=genes, scale="counts"),
        "entries": model.impute_masked(mask=mask),
        "recovery": model.get_masked_recovery(mask_fraction=0.2),
        "effects": model.perturb(genes[0], genes[1], n_controls=2),
        "dose response": model.get_dose_response(genes[0], genes[1]),
        "influence": model.get_gene_influence(genes[1]),
    }
    yield "depth", np.array(model.target_depth)
    yield "latent", model.get_latent_representation(batch_size=50)
    yield "graph", model.to_pyg([3])[0].x.numpy()
    for name, table in tables.items():
        yield name, table.select_dtypes("number").to_numpy()


@pytest.fixture(scope="module")
def expected(section: ad.AnnData) -> dict[bool, dict[str, np.ndarray]]:
    """The results of float32 in CSR: of the counts, and of whether they are above 0."""
    binary = (section.X > 0).astype(np.float32)
    return {
        is_binary: dict(results(with_counts(section, sp.csr_matrix(counts))))
        for is_binary, counts in ((False, section.X), (True, binary))
    }


def assert_expected(adata: ad.AnnData, expected: dict[str, np.ndarray]) -> None:
    for name, found in results(adata):
        np.testing.assert_allclose(found, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


BY_TYPE = [("CSR", dtype) for dtype in TYPES] + [("dense", "float16")]
BY_CONTAINER = [(container, "uint8") for container in CONTAINERS if container != "CSR"]


@pytest.mark.parametrize(("container", "dtype"), BY_TYPE + BY_CONTAINER)
def test_setup_training_and_every_getter_give_the_same_results(section, expected, container, dtype):
    adata = with_counts(section, CONTAINERS[container](section.X.astype(dtype)))
    assert_expected(adata, expected[dtype == "bool"])


@pytest.mark.parametrize("container", ON_DISK)
@pytest.mark.parametrize("reader", READERS)
def test_setup_training_and_every_getter_give_the_same_results_on_files(section, expected, tmp_path, reader, container):
    with_counts(section, CONTAINERS[container](section.X.astype("uint8"))).write_h5ad(tmp_path / "section.h5ad")
    adata = READERS[reader](tmp_path / "section.h5ad")
    assert_expected(adata, expected[False])
    adata.file.close()


@pytest.fixture(scope="module")
def model(section: ad.AnnData) -> sagefm.SAGEFM:
    adata = with_counts(section, sp.csr_matrix(section.X))
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=4)
    model.is_trained_ = True
    return model


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_counts_of_every_type_in_every_container_have_the_same_embedding(section, model, container, dtype):
    if dtype == "float16" and container in ("dask of CSR", "dask of CSC arrays"):
        pytest.skip("dask itself cannot concatenate blocks of float16")
    counts = (section.X > 0).astype(np.float32) if dtype == "bool" else section.X
    embedding = model.get_latent_representation(with_counts(section, sp.csr_matrix(counts)))
    found = model.get_latent_representation(with_counts(section, CONTAINERS[container](section.X.astype(dtype))))
    np.testing.assert_allclose(found, embedding, atol=1e-5)
