"""Run all Python and shell blocks of the README, the guides and the tutorials, in order, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
import torch
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import sagefm
from sagefm.weights import packaged_weights, read_card

ROOT = Path(__file__).parents[1]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in ROOT.glob("docs/*.md")}
PAGES |= {page.relative_to(ROOT).as_posix(): page.read_text() for page in ROOT.glob("tutorials/*.md")}
PAGES |= {"README.md": (ROOT / "README.md").read_text()}

# The cells of a tutorial are `{code-cell}`, and run when the documentation is built.
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(python|bash)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted(document for document, text in PAGES.items() if BLOCK.search(text))
NOT_RUN = {"README.md": 1, "docs/installation.md": 2, "docs/integrating_patients.md": 1, "docs/pretraining.md": 1}


@pytest.fixture
def names() -> dict[str, Any]:
    """Names that the pages assume: a section, another one, a mask, and a trained model."""
    adata, other = (sagefm.datasets.simulated_tissue(12, 12, n_genes=200, seed=seed) for seed in (0, 1))
    adata.layers["counts"] = adata.X
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, enable_progress_bar=False)
    mask = np.random.default_rng(0).random(adata.shape) < 0.1
    given = {"adata": adata, "other": other, "human": human_section(), "mask": mask, "model": model}
    return {**given, "sagefm": sagefm, "sq": sq}


def human_section() -> ad.AnnData:
    """Return a simulated section whose gene names the packaged weights know."""
    card = read_card(packaged_weights()["human-mini"])
    human = sagefm.datasets.simulated_tissue(12, 12, n_genes=2000)
    human.var_names = card["genes"][:2000]
    return human


def write_files(names: dict[str, Any]) -> None:
    """Write the files that the pages assume: sections, weights, embeddings and the published checkpoint."""
    names["human"].write_h5ad("section.h5ad")
    names["model"].save_pretrained("weights")
    write_sections()
    write_embedded()
    write_spatialdata(names["human"])
    write_checkpoint([*names["adata"].var_names, "CD3E", "MS4A1"], widths=(32, 16, 16, 16, 32))


def write_sections() -> None:
    """Write four sections of four patients, in a folder with a table, and as `A1.h5ad` to `D1.h5ad`."""
    Path("sections").mkdir()
    patients = {"A1": "P1", "B1": "P2", "C1": "P3", "D1": "P4"}
    for seed, (name, patient) in enumerate(patients.items()):
        section = sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed)
        section.obs["patient"] = patient
        section.write_h5ad(f"sections/{seed}.h5ad")
        section.write_h5ad(f"{name}.h5ad")
    paths = [f"sections/{seed}.h5ad" for seed in range(4)]
    pd.DataFrame({"path": paths, "sample": list(patients), "patient": patients.values()}).to_csv("sections.csv")


def write_embedded() -> None:
    """Write two embedded sections of two patients, in which a third of the spots have no label."""
    adata = sagefm.datasets.simulated_tissue(16, 16, n_genes=100, n_sections=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    adata.obsm["X_sagefm"] = sc.pp.pca(adata.X, n_comps=8)
    adata.obsm["X_pca"] = adata.obsm["X_sagefm"][:, :4]
    adata.obs["patient"] = adata.obs["sample"].astype(str)
    adata.obs.loc[adata.obs_names[::3], "annotation"] = np.nan
    adata.write_h5ad("embedded.h5ad")


def write_spatialdata(adata: ad.AnnData) -> None:
    """Write `sample.zarr`, in which the coordinates are in the shapes, in another order than in the table."""
    table = ad.AnnData(adata.X, var=adata.var[[]])
    table.obs["region"], table.obs["spot"] = "spots", np.arange(adata.n_obs)
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    backwards = np.arange(adata.n_obs)[::-1]
    spots = ShapesModel.parse(adata.obsm["spatial"][::-1], geometry=0, radius=20, index=backwards)
    SpatialData(shapes={"spots": spots}, tables={"table": table}).write("sample.zarr")


def write_checkpoint(genes: list[str], widths: tuple[int, ...]) -> None:
    """Write random weights in the format of the published ones, and their genes."""
    weights = {}
    for number, (n_in, n_out) in enumerate(zip((len(genes), *widths), widths, strict=False), start=1):
        weights |= {
            f"conv{number}.lin.weight": torch.randn(n_out, n_in) / n_in**0.5,
            f"conv{number}.bias": torch.randn(n_out),
        }
    weights |= {"fc_gene.weight": torch.randn(len(genes), widths[-1]), "fc_gene.bias": torch.rand(len(genes))}
    Path("path/to").mkdir(parents=True)
    torch.save({"model_state_dict": weights, "hidden_channels": list(widths)}, "path/to/checkpoint.pt")
    np.save("path/to/gene_names.npy", np.array(genes))


def run(language: str, code: str, document: str, names: dict[str, Any]) -> None:
    if language == "python":
        exec(compile(code, document, "exec"), names)
    else:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        subprocess.run(["bash", "-eu", "-c", code], env={**os.environ, "PATH": path}, check=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_runs(document, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(names)
    for reason, language, code in BLOCK.findall(PAGES[document]):
        if not reason:
            run(language, code, document, names)
    plt.close("all")


def test_only_these_blocks_are_not_run():
    reasons = {document: sum(bool(reason) for reason, _, _ in BLOCK.findall(PAGES[document])) for document in DOCUMENTS}
    assert {document: number for document, number in reasons.items() if number} == NOT_RUN


@pytest.mark.parametrize("document", sorted(PAGES))
def test_code_is_not_wider_than_the_page(document):
    """Lines of more than 75 characters are cut off at the edge of the column."""
    fence = re.compile(r"^```(?:python|bash|text|\{code-cell\})[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    assert not [line for block in fence.findall(PAGES[document]) for line in block.splitlines() if len(line) > 75]


@pytest.mark.parametrize("document", sorted(PAGES))
def test_all_code_is_in_blocks_that_are_run(document):
    """Code in other or indented fences, or in indented lines, would not be run."""
    languages = re.findall(r"^ *(?:```+|~~~+) *([^\s`]+)", PAGES[document], flags=re.MULTILINE)
    assert {language for language in languages if not language.startswith("{")} <= {"python", "bash", "text"}
    assert len(BLOCK.findall(PAGES[document])) == sum(language in ("python", "bash") for language in languages)
    assert not re.search(r"^\n(?: {4,}|\t)\S", PAGES[document], flags=re.MULTILINE)
    assert PAGES[document].count("<!-- not run") == NOT_RUN.get(document, 0)
