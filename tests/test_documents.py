"""Every Python block of the README and the guides runs, in order, as a reader would run it."""

import re
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import squidpy as sq

import sagefm
from sagefm._weights import CARD, packaged_weights, read_card

ROOT = Path(__file__).parents[1]
PAGES = ["index", "user_guide", "graphs", "input_data", "ecosystem", "perturbation", "pretraining"]
DOCUMENTS = ["README.md", *(f"docs/{page}.md" for page in PAGES)]


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def names() -> dict[str, Any]:
    """What a reader has at hand: a section, another one, a mask, and a trained model."""
    adata, other = (sagefm.datasets.simulated_tissue(12, 12, n_genes=200, seed=seed) for seed in (0, 1))
    adata.layers["counts"] = adata.X
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, enable_progress_bar=False)
    mask = np.random.default_rng(0).random(adata.shape) < 0.1
    given = {"adata": adata, "other": other, "human": human_section(), "mask": mask, "model": model}
    return {**given, "sagefm": sagefm, "sq": sq}


def human_section() -> ad.AnnData:
    """Give simulated spots the names of genes that the packaged weights know."""
    card = read_card(packaged_weights()["human-mini"] / CARD)
    human = sagefm.datasets.simulated_tissue(12, 12, n_genes=2000)
    human.var_names = card["genes"][:2000]
    return human


def leave_files(names: dict[str, Any]) -> None:
    """What a reader has on disk: weights, and a folder of sections."""
    names["model"].save_pretrained("weights")
    Path("sections").mkdir()
    for seed in range(4):
        sagefm.datasets.simulated_tissue(8, 8, n_genes=100, seed=seed).write_h5ad(f"sections/{seed}.h5ad")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_runs(document, names, tmp_path, monkeypatch):
    code = blocks(ROOT / document)
    assert code
    monkeypatch.chdir(tmp_path)
    leave_files(names)
    for block in code:
        exec(compile(block, document, "exec"), names)
    plt.close("all")
