"""`sagefm pretrain` and `sagefm embed`, as typed on a command line."""

import json

import anndata as ad
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import sagefm
from sagefm.cli._app import app

SMALL = ["--model", '{"n_hidden": 16, "n_latent": 4}', "--batch-size", "16", "--accelerator", "cpu", "--workers", "0"]


@pytest.fixture(autouse=True)
def settings():
    seed = scvi.settings.seed
    yield
    scvi.settings.seed = seed


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five sections of one tissue and a file that is none."""
    folder = tmp_path_factory.mktemp("sections")
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=5)
    names = list(tissue.obs["sample"].cat.categories)
    for name in names:
        tissue[tissue.obs["sample"] == name].copy().write_h5ad(folder / f"{name}.h5ad")
    (folder / "broken.h5ad").write_text("no section")
    table = pd.DataFrame({"path": [f"{name}.h5ad" for name in [*names, "broken"]], "licence": "CC BY 4.0"})
    table["split"] = ["train", "train", "train", "validation", "test", "train"]
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pretrain(table, out, *more):
    return run("pretrain", table, "--out", out, "--split-key", "split", *SMALL, *more)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    result = pretrain(table, out, "--max-epochs", "3", "--checkpoint-every", "5")
    assert result.exit_code == 0, result.output
    return out, result.output


def test_pretraining_leaves_weights_and_a_report(trained, table):
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


def test_the_report_is_what_the_weights_do(trained, table):
    out, _ = trained
    adata = ad.read_h5ad(table.parent / "section_5.h5ad")
    model = sagefm.SAGEFM.from_pretrained(out / "weights", adata)
    again = model.get_masked_recovery(seed=[0, 4], fit_section=False)  # as the fifth section of the corpus is masked
    recovery = pd.read_csv(out / "recovery.csv", index_col=0).loc[again.index]
    for column in ("r", "r_neighbors", "mean_expression"):
        np.testing.assert_allclose(recovery[column], again[column], rtol=1e-4, atol=1e-5)


def test_a_run_in_two_parts_ends_where_one_does(trained, table, tmp_path):
    out, _ = trained
    first = pretrain(table, tmp_path / "run", "--max-epochs", "2", "--checkpoint-every", "5")
    assert first.exit_code == 0, first.output
    refused = pretrain(table, tmp_path / "run", "--max-epochs", "3")
    assert refused.exit_code == 1 and "go on with `--resume`" in refused.output
    resumed = pretrain(table, tmp_path / "run", "--max-epochs", "3", "--resume")
    assert resumed.exit_code == 0, resumed.output
    one, two = (load_file(folder / "weights" / "model.safetensors") for folder in (out, tmp_path / "run"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=0)


def test_options_that_are_off_end_in_one_line(table, tmp_path):
    for more, message in (
        (["--model", "{"], "--model is no JSON"),
        (["--plan", "[]"], "--plan must be a JSON object"),
        (["--on-error", "raise"], "broken.h5ad cannot be used"),
        (["--group-key", "patient", "--split-key", "donor"], "'donor' is not a column"),
    ):
        result = pretrain(table, tmp_path / "run", *more)
        assert result.exit_code == 1 and message in result.output, result.output
        assert "Traceback" not in result.output


@pytest.fixture
def bad(table, tmp_path):
    mouse = ad.read_h5ad(table.parent / "section_1.h5ad")
    mouse.var_names = mouse.var_names.str.capitalize()
    mouse.write_h5ad(tmp_path / "mouse.h5ad")
    return [tmp_path / "mouse.h5ad", table.parent / "broken.h5ad", tmp_path / "none.h5ad"]


def test_embedding_goes_on_after_failures_and_skips_what_is_done(trained, table, bad, tmp_path):
    good = [table.parent / "section_1.h5ad", table.parent / "section_2.h5ad"]
    out = tmp_path / "out"
    result = run("embed", trained[0] / "weights", bad[0], good[0], *bad[1:], good[1], "--out", out)
    assert result.exit_code == 1 and "3 of 5 sections failed" in result.output
    for text in ("orthologues", "file signature not found", "none.h5ad is not there"):
        assert text in result.output
    written = ad.read_h5ad(out / "section_1.h5ad")
    model = sagefm.SAGEFM.from_pretrained(trained[0] / "weights", ad.read_h5ad(good[0]))
    np.testing.assert_array_equal(written.obsm["X_sagefm"], model.get_latent_representation())
    assert written.obs.equals(ad.read_h5ad(good[0]).obs)
    before = (out / "section_1.h5ad").stat().st_mtime_ns
    again = run("embed", trained[0] / "weights", *good, "--out", out)
    assert again.exit_code == 0 and again.output.count("done before") == 2
    assert (out / "section_1.h5ad").stat().st_mtime_ns == before
    other = run("embed", trained[0] / "weights", *good, "--out", out, "--key-added", "X_other")
    assert other.output.count("embedded") == 2


def test_a_zarr_store_is_embedded_as_its_file_and_another_folder_is_refused(trained, table, tmp_path):
    section = ad.read_h5ad(table.parent / "section_1.h5ad")
    section.write_zarr(tmp_path / "section.zarr")
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "section.zarr", tmp_path / "folder"]
    result = run("embed", trained[0] / "weights", *paths, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "1 of 2 sections failed" in result.output
    assert "no .h5ad, no .zarr and no Space Ranger folder" in " ".join(result.output.split())
    run("embed", trained[0] / "weights", table.parent / "section_1.h5ad", "--out", tmp_path / "out")
    store, file = (ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad") for name in ("section", "section_1"))
    np.testing.assert_array_equal(store.obsm["X_sagefm"], file.obsm["X_sagefm"])


def test_spots_without_counts_have_no_embedding(trained, table, tmp_path):
    section = ad.read_h5ad(table.parent / "section_1.h5ad")
    section.layers["raw"] = section.X.copy()
    section.layers["raw"][4] = 0
    section.write_h5ad(tmp_path / "gap.h5ad")
    result = run("embed", trained[0] / "weights", tmp_path / "gap.h5ad", "--out", tmp_path / "out", "--layer", "raw")
    assert result.exit_code == 0, result.output
    latent = ad.read_h5ad(tmp_path / "out" / "gap.h5ad").obsm["X_sagefm"]
    assert np.flatnonzero(np.isnan(latent).any(axis=1)).tolist() == [4]


def test_sections_of_one_name_are_refused(trained, table, tmp_path):
    (tmp_path / "section_1.h5ad").write_bytes((table.parent / "section_1.h5ad").read_bytes())
    same = [table.parent / "section_1.h5ad", tmp_path / "section_1.h5ad"]
    result = run("embed", trained[0] / "weights", *same, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "Several sections are called 'section_1'" in result.output


def test_a_dask_cluster_embeds_alike(trained, table, bad, tmp_path):
    distributed = pytest.importorskip("distributed")
    good = [table.parent / f"section_{number}.h5ad" for number in (1, 2, 3)]
    cluster = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "processes": False}
    with distributed.LocalCluster(**cluster) as local:
        address = local.scheduler_address
        result = run("embed", trained[0] / "weights", *good, bad[1], "--out", tmp_path / "there", "--dask", address)
    assert result.exit_code == 1 and result.output.count("embedded") == 3 and "1 of 4 sections failed" in result.output
    run("embed", trained[0] / "weights", *good, "--out", tmp_path / "here")
    for file in good:
        here, there = (ad.read_h5ad(tmp_path / folder / file.name) for folder in ("here", "there"))
        np.testing.assert_array_equal(here.obsm["X_sagefm"], there.obsm["X_sagefm"])
