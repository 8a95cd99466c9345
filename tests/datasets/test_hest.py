"""HEST-1k: the corpus of the paper from the real metadata table, and files as they are on the Hub."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import sagefm
from sagefm.datasets._hest import LICENCE, METADATA, read_metadata

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def real_metadata():
    file = ROOT / os.environ.get("SAGEFM_DATA", "../shared/data") / "resources" / "hest" / METADATA
    if not file.exists():
        pytest.skip(f"no {file}; set SAGEFM_DATA to the folder of the data")
    return file


METADATA_ROWS = pd.DataFrame(
    {
        "id": ["A1", "A2", "A3", "A4", "A5"],
        "dataset_title": ["study one", "study one", "study two", "study two", "study two"],
        "patient": ["1", "2", "1", None, "1"],
        "species": ["Homo sapiens"] * 4 + ["Mus musculus"],
        "st_technology": ["Visium", "Visium", "Visium", "Xenium", "Visium"],
        "nb_genes": [17_000, 18_000, 9_999, 20_000, 20_000],
        "spots_under_tissue": [100, 100, 100, 100, 100],
        "organ": ["Breast", "Brain", "Brain", "Brain", "Brain"],
        "license": ["CC BY 4.0", None, None, None, None],
    }
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A replacement of the Hub: copies files of a local repository with the same layout instead of downloading."""
    remote = tmp_path / "remote"
    (remote / "st").mkdir(parents=True)
    METADATA_ROWS.to_csv(remote / METADATA, index=False, encoding="utf-8-sig")
    for seed, name in enumerate(METADATA_ROWS["id"]):
        sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed).write_h5ad(remote / "st" / f"{name}.h5ad")
    fetched: list[str] = []

    class GatedRepoError(Exception):
        pass

    def snapshot_download(repo_id, *, repo_type, allow_patterns, local_dir, revision):
        assert (repo_id, repo_type) == ("MahmoodLab/hest", "dataset")
        if revision == "gated":
            raise GatedRepoError
        for file in allow_patterns:
            (Path(local_dir) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(local_dir) / file).write_bytes((remote / file).read_bytes())
            fetched.append(file)

    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    package.snapshot_download, errors.GatedRepoError = snapshot_download, GatedRepoError
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return fetched


def test_defaults_select_the_416_sections_of_the_paper(real_metadata, tmp_path):
    sections = sagefm.datasets.hest(tmp_path, metadata=real_metadata, download=False)
    assert len(sections) == 416 and sections["n_spots"].sum() == 981_074
    assert sections["sample"].is_unique and sections["patient"].notna().all()
    assert (sections["licence"] == LICENCE).all() and (sections["n_genes"] >= 10_000).all()
    assert set(sections["path"]) == {str(tmp_path / "st" / f"{name}.h5ad") for name in sections["sample"]}


def test_sections_are_selected_by_organ_species_and_technology(real_metadata, tmp_path):
    def select(**kwargs):
        return sagefm.datasets.hest(tmp_path, metadata=real_metadata, download=False, **kwargs)

    everything = read_metadata(real_metadata)
    brain = select(organs=["Brain"])
    assert 0 < len(brain) < 416 and (brain["organ"] == "Brain").all()
    mouse = select(species="Mus musculus", min_genes=0)
    expected = (everything["species"] == "Mus musculus") & (everything["st_technology"] == "Visium")
    assert len(mouse) == int((expected & (everything["nb_genes"] >= 0)).sum())
    with pytest.raises(ValueError, match="HEST-1k has no section with species='Homo sapien'.*Homo sapiens"):
        select(species="Homo sapien")


def test_missing_files_are_downloaded_and_form_a_corpus(hub, tmp_path):
    sections = sagefm.datasets.hest(tmp_path / "hest")
    assert hub == [METADATA, "st/A1.h5ad", "st/A2.h5ad"]
    corpus = sagefm.pretraining.Corpus(sections)
    assert list(corpus.table["sample"]) == ["A1", "A2"]
    assert list(corpus.table["patient"]) == ["study one: 1", "study one: 2"]
    (tmp_path / "hest" / "st" / "A2.h5ad").unlink()
    sagefm.datasets.hest(tmp_path / "hest")
    assert hub[3:] == ["st/A2.h5ad"]


def test_unknown_patient_is_named_after_the_study(hub, tmp_path):
    sections = sagefm.datasets.hest(tmp_path / "hest", technology="Xenium")
    assert list(sections["patient"]) == ["study two"]


def test_errors_without_access_package_or_download(hub, tmp_path, monkeypatch):
    with pytest.raises(PermissionError, match="hf auth login"):
        sagefm.datasets.hest(tmp_path / "gated", revision="gated")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'sagefm\[hub\]'"):
        sagefm.datasets.hest(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=METADATA):
        sagefm.datasets.hest(tmp_path / "none", download=False)


def test_other_tables_are_refused(tmp_path):
    pd.DataFrame({"id": [1]}).to_csv(tmp_path / METADATA, index=False)
    with pytest.raises(KeyError, match="is not a metadata table of HEST-1k"):
        sagefm.datasets.hest(tmp_path, download=False)
