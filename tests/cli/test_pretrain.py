"""`sagefm pretrain`."""

import json

import anndata as ad
import matplotlib.image
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import sagefm


def test_weights_and_a_report_are_written(trained):
    out, output = trained
    assert "Corpus of 5 sections" in output and "1 skipped" in output and "mean of the neighbours" in output
    report = pd.read_csv(out / "sections.csv").set_index("sample")
    assert report.loc["broken", "status"] == "skipped" and "OSError" in report.loc["broken", "reason"]
    card = json.loads((out / "weights" / "card.json").read_text())
    assert [section["sample"] for section in card["sections"]] == ["section_1", "section_2", "section_3"]
    assert all(section["licence"] == "CC BY 4.0" and section["sha256"] for section in card["sections"])
    assert card["metrics"]["recovery"]["sections"] == "test" and card["metrics"]["recovery"]["n_sections"] == 1
    assert card["command"].startswith("sagefm") and card["seed"] == 0
    assert matplotlib.image.imread(out / "recovery.png").std() > 0
    log = pd.read_csv(next((out / "log").glob("*/metrics.csv")))
    assert log["train_loss"].notna().sum() == 3 and log["validation_loss"].notna().sum() == 3


def test_report_agrees_with_the_weights(trained, table):
    out, output = trained
    adata = ad.read_h5ad(table.parent / "section_5.h5ad")
    model = sagefm.SAGEFM.from_pretrained(out / "weights", adata)
    again = model.get_masked_recovery(seed=[0, 4], fit_section=False)  # the masks of the fifth section of the corpus
    recovery = pd.read_csv(out / "recovery.csv", index_col=0).loc[again.index]
    for column in ("r", "r_neighbors", "mean_expression"):
        np.testing.assert_allclose(recovery[column], again[column], rtol=1e-4, atol=1e-5)
    lines = [line.split() for line in output.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line and line[0] in ("section_5", "together")}
    r, r_neighbors = (f"{again.attrs[key]:.3f}" for key in ("top500_r", "top500_r_neighbors"))
    assert rows["section_5"] == [str(adata.n_obs), r, r_neighbors]
    assert rows["together"] == rows["section_5"]


def test_resumed_run_ends_with_the_same_weights(trained, pretrain, tmp_path):
    out, _ = trained
    first = pretrain(tmp_path / "run", "--max-epochs", "2", "--checkpoint-every", "5")
    assert first.exit_code == 0, first.output
    refused = pretrain(tmp_path / "run", "--max-epochs", "3")
    assert refused.exit_code == 1 and "continue with `--resume`" in refused.output
    resumed = pretrain(tmp_path / "run", "--max-epochs", "3", "--resume")
    assert resumed.exit_code == 0, resumed.output
    one, two = (load_file(folder / "weights" / "model.safetensors") for folder in (out, tmp_path / "run"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=0)


def test_wrong_options_end_in_one_line(pretrain, tmp_path, assert_one_line):
    for more, message in (
        (["--model", "{"], "--model is not valid JSON"),
        (["--plan", "[]"], "--plan must be a JSON object"),
        (["--on-error", "raise"], "broken.h5ad cannot be used"),
        (["--group-key", "patient", "--split-key", "donor"], "'donor' is not a column"),
    ):
        assert_one_line(pretrain(tmp_path / "run", *more), message)
