"""Run every tutorial on small simulated sections, which it finds where it expects the real ones."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.weights import packaged_weights, read_card

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))
SECTIONS = [
    *(f"dlpfc_maynard2021__{name}" for name in ("151673", "151674")),
    *(f"her2st_andersson2021__{name}" for name in ("A1", "B1", "C1", "D1", "E1", "F1")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sections and resources that the tutorials read."""
    folder = tmp_path_factory.mktemp("data")
    genes = read_card(packaged_weights()["human-mini"])["genes"]
    genes = sorted(genes, key=lambda gene: gene not in ("CD74", "STAT1"))[:1500]  # these are named in a tutorial
    write_sections(folder / "sections", genes)
    write_resources(folder / "resources", genes)
    return folder


def write_sections(folder: Path, genes: list[str]) -> None:
    folder.mkdir()
    adata = sagefm.datasets.simulated_tissue(14, 14, n_genes=len(genes), n_sections=len(SECTIONS), library_size=5000)
    adata.var_names = genes
    for number, name in enumerate(SECTIONS, start=1):
        section = adata[adata.obs["sample"] == f"section_{number}"].copy()
        section.obs = section.obs[["annotation"]]
        section.write_h5ad(folder / f"{name}.h5ad")


def write_resources(folder: Path, genes: list[str]) -> None:
    """Write a net with two pathways and a table of ligands and receptors."""
    (folder / "pathways").mkdir(parents=True)
    (folder / "liana").mkdir()
    net = pd.DataFrame({"source": np.repeat(["JAK-STAT", "p53"], 40), "target": genes[2:82], "weight": 1.0})
    net.to_csv(folder / "pathways" / "progeny_human.csv", index=False)
    pairs = pd.DataFrame({"source_genesymbol": genes[:40], "target_genesymbol": genes[500:540]})
    pairs.assign(resource="consensus").to_csv(folder / "liana" / "omni_resource.csv", index=False)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(tutorial, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGEFM_DATA", str(folder))
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: None)
    exec(compile(tutorial.read_text(), str(tutorial), "exec"), {})
    plt.close("all")


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_code_is_not_wider_than_the_page(tutorial):
    code = [line for line in tutorial.read_text().splitlines() if not line.startswith("#")]
    assert max(map(len, code)) <= 75


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_stored_outputs_belong_to_the_code(tutorial):
    """`make tutorials` stores the outputs; a tutorial that was changed afterwards has to be executed again."""
    cells = json.loads(tutorial.with_suffix(".ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all("".join(cell["source"]) in tutorial.read_text() for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
