"""Data that many tests share: a small simulated tissue, a model trained on it, and real sections if available."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scvi

import sagefm
from sagefm._logging import logger
from sagefm.data import Spots, normalization_of, registered_spots

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tissue() -> ad.AnnData:
    """One section without a graph, as read from a file. Do not change it; use `adata` instead."""
    return sagefm.datasets.simulated_tissue(16, 16, n_genes=150, n_interactions=2)


@pytest.fixture
def adata(tissue: ad.AnnData) -> ad.AnnData:
    """A copy of `tissue` that a test may change."""
    return tissue.copy()


@pytest.fixture(scope="session")
def trained_model(tissue: ad.AnnData) -> sagefm.SAGEFM:
    """A model trained for a few epochs on its own copy of `tissue`. Do not train it further."""
    adata = tissue.copy()
    seed, scvi.settings.seed = scvi.settings.seed, 0
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=32, n_latent=8)
    model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False)
    scvi.settings.seed = seed
    return model


@pytest.fixture(scope="session")
def spots_of() -> Callable[..., Spots]:
    """Return the spots of an AnnData that was set up, or of another one for a model of `like`."""

    def take(
        adata: ad.AnnData, masked: np.ndarray | None = None, method: str = "size", like: ad.AnnData | None = None
    ) -> Spots:
        manager = sagefm.SAGEFM(adata if like is None else like, n_hidden=2, n_latent=2).adata_manager
        normalization = normalization_of(manager.registry, method)
        return registered_spots(manager if like is None else manager.transfer_fields(adata), normalization, masked)

    return take


@pytest.fixture(scope="session")
def real_section() -> Callable[[str], ad.AnnData]:
    """Read a real section by name, or skip the test: the files are not part of the package."""
    folder = ROOT / os.environ.get("SAGEFM_DATA", "../shared/data") / "sections"

    def read(name: str) -> ad.AnnData:
        if not folder.is_dir():
            pytest.skip(f"no real sections in {folder}; name the folder above with SAGEFM_DATA")
        return ad.read_h5ad(folder / f"{name}.h5ad")

    return read


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The fixture of pytest on our logger, which does not propagate to the root logger that pytest listens to."""
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
