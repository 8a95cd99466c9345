"""The table that notebooks show of a model."""

import re
from pathlib import Path

import anndata as ad
import mudata
import pandas as pd

import sagefm


def rows(model: sagefm.SAGEFM) -> dict[str, str]:
    html = model._repr_html_()
    assert html.startswith("<table>") and html.endswith("</table>")
    return dict(re.findall(r"<th[^>]*>([^<]*)</th><td[^>]*>([^<]*)</td>", html))


def test_untrained_and_trained(adata: ad.AnnData):
    adata.layers["counts"] = adata.X
    adata.obs["slide"] = pd.Categorical(["a"] * 100 + ["b"] * (adata.n_obs - 100))
    sagefm.SAGEFM.setup_anndata(adata, layer="counts", sample_key="slide")
    model = sagefm.SAGEFM(adata, n_hidden=8, n_latent=2)
    shown = rows(model)
    assert shown["weights"] == "untrained"
    assert shown["genes"] == "150, 150 of them in the data"
    assert shown["spots"] == "192 in 2 sections"
    assert shown["set up by"] == "SAGEFM.setup_anndata(adata, layer='counts', sample_key='slide')"
    assert "n_latent=2" in shown["network"] and "parameters" in shown["network"]
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    assert rows(model)["weights"] == "trained for 2 epochs"


def test_weights_from_a_file_are_named_also_after_training_and_loading(
    trained_model: sagefm.SAGEFM, adata: ad.AnnData, tmp_path: Path
):
    folder = tmp_path / "<b>weights"
    trained_model.save_pretrained(folder)
    model = sagefm.SAGEFM.from_pretrained(folder, adata[:, :100].copy())
    name = str(folder).replace("<", "&lt;").replace(">", "&gt;")  # text is escaped
    assert rows(model)["weights"] == f"{name}, not trained further"
    assert rows(model)["genes"] == "150, 100 of them in the data"
    assert rows(model)["spots"] == "192 in 1 section"
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "model")
    loaded = sagefm.SAGEFM.load(tmp_path / "model", adata)
    assert rows(loaded)["weights"] == f"{name}, then trained for 1 epoch"
    assert rows(loaded)["genes"] == "150, 150 of them in the data"


def test_without_data_only_the_weights_are_described(trained_model: sagefm.SAGEFM, tmp_path: Path):
    trained_model.save_pretrained(tmp_path / "weights")
    shown = rows(sagefm.SAGEFM.from_pretrained(tmp_path / "weights"))
    assert list(shown) == ["network", "weights", "genes"] and shown["genes"] == "150"


def test_a_modality_of_a_mudata(adata: ad.AnnData):
    mdata = mudata.MuData({"rna": adata})
    sagefm.SAGEFM.setup_mudata(mdata, modalities={"layer": "rna"})
    shown = rows(sagefm.SAGEFM(mdata, n_hidden=8, n_latent=2))
    assert shown["spots"] == "192 in 1 section"
    assert shown["set up by"].startswith("SAGEFM.setup_mudata(mdata, ")
