"""Simulated sections on disk, a corpus of them, and a small model to train on it."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pytest
import scvi
import torch

import sagefm
from sagefm.pretraining import Corpus, CorpusDataModule


@pytest.fixture(scope="package")
def sections() -> list[ad.AnnData]:
    """Four sections of one tissue, 90 genes. Do not change them."""
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=4)
    return [tissue[tissue.obs["sample"] == name].copy() for name in tissue.obs["sample"].cat.categories]


@pytest.fixture
def folder(sections: list[ad.AnnData], tmp_path: Path) -> Path:
    """Folder with the files s0.h5ad to s3.h5ad."""
    for number, section in enumerate(sections):
        section.write_h5ad(tmp_path / f"s{number}.h5ad")
    return tmp_path


@pytest.fixture(scope="package")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with six sections of one tissue that differ in size; one lacks genes. Do not change it."""
    folder = tmp_path_factory.mktemp("corpus")
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=6)
    for number, name in enumerate(tissue.obs["sample"].cat.categories):
        section = tissue[tissue.obs["sample"] == name][: 40 + 8 * number]
        section = section[:, :70] if number == 2 else section
        section.copy().write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="package")
def corpus(corpus_folder: Path) -> Corpus:
    """The corpus of `corpus_folder`."""
    return Corpus(corpus_folder, min_share=0.5)


@pytest.fixture
def fit(corpus: Corpus) -> Callable[..., tuple[sagefm.SAGEFM, dict[str, torch.Tensor]]]:
    """Train a small model, with dropout, on a corpus; return it and a copy of its weights."""

    def train(data: dict | None = None, seed: int = 0, corpus: Corpus = corpus, **kwargs):
        scvi.settings.seed = seed
        model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=16, n_latent=4)
        datamodule = CorpusDataModule(
            corpus, **{"batch_size": 16, "validation_size": 0.2, "n_shards": 2, "seed": 0, **(data or {})}
        )
        quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
        model.train(datamodule=datamodule, **{**quiet, "max_epochs": 3, **kwargs})
        return model, {name: value.clone() for name, value in model.module.state_dict().items()}

    return train


@pytest.fixture
def assert_same_weights() -> Callable[[dict, dict], None]:
    """Compare weights bit for bit."""

    def compare(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)

    return compare
