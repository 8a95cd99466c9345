"""What the rows of the table work with: a small section, two sections, and a model trained on the first."""

import signal
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi

import sagefm

GRAPH = "spatial_connectivities"


class World:
    """Everything is a copy that a row may spoil, but for `model`, which no row changes."""

    def __init__(self, folder: Path) -> None:
        self._root, self._n_folders = folder, 0

    @cached_property
    def _section(self) -> ad.AnnData:
        section = sagefm.datasets.simulated_tissue(
            8, 8, n_genes=60, n_layers=2, n_niches=1, n_interactions=1, outline="rectangle"
        )
        sagefm.SAGEFM.setup_anndata(section)
        for key in [key for key in section.uns if key.startswith("_scvi")]:
            del section.uns[key]
        return section

    @cached_property
    def model(self) -> sagefm.SAGEFM:
        """A model that was trained for an epoch."""
        scvi.settings.seed = 0
        section = self._section.copy()
        sagefm.SAGEFM.setup_anndata(section)
        model = sagefm.SAGEFM(section, n_hidden=16, n_latent=4)
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
        return model

    @cached_property
    def expected(self) -> np.ndarray:
        """Embedding of the plain section."""
        return self.model.get_latent_representation(self.section(), key_added=None)

    def section(self) -> ad.AnnData:
        """One section with its graph, 64 spots and 60 genes."""
        return self._section.copy()

    def two(self) -> ad.AnnData:
        """Two sections in one AnnData, `obs["sample"]`, without a graph."""
        parts = {name: self.section() for name in "AB"}
        for part in parts.values():
            del part.obsp
        return ad.concat(parts, label="sample", index_unique="-")

    def with_counts(self, counts: object) -> ad.AnnData:
        """The section with other counts."""
        section = self.section()
        section.X = counts
        return section

    def with_graph(self, graph: object) -> ad.AnnData:
        """The section with another graph."""
        section = self.section()
        section.obsp[GRAPH] = sp.csr_matrix(graph)
        return section

    def renamed(self, names: list[str]) -> ad.AnnData:
        """The section with other names of genes."""
        section = self.section()
        section.var_names = names
        return section

    def embed(self, section: ad.AnnData) -> np.ndarray:
        """Embed a section."""
        return self.model.get_latent_representation(section, key_added=None)

    def is_as_expected(self, section: ad.AnnData) -> bool:
        """Whether the section embeds as the plain one."""
        return bool(np.allclose(self.embed(section), self.expected, atol=1e-5))

    def folder(self) -> Path:
        """A new folder."""
        self._n_folders += 1
        folder = self._root / str(self._n_folders)
        folder.mkdir()
        return folder

    def weights(self) -> Path:
        """A folder of shared weights."""
        path = self.folder() / "weights"
        self.model.save_pretrained(path)
        return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make it once."""
    seed, handler = scvi.settings.seed, signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may begin with Ctrl-C ignored
    yield World(tmp_path_factory.mktemp("misuse"))
    signal.signal(signal.SIGINT, handler)
    scvi.settings.seed = seed
