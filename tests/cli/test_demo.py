"""`sagefm demo`."""

import re
from pathlib import Path

import anndata
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.cli._demo_report import are_categories
from sagefm.weights import packaged_weights, read_card

SHORT = ["--max-epochs", "2"]


@pytest.fixture(scope="module")
def tissue() -> anndata.AnnData:
    return sagefm.datasets.simulated_tissue(12, 12, n_genes=200, n_sections=2)


@pytest.fixture
def section(tissue: anndata.AnnData) -> anndata.AnnData:
    return tissue[tissue.obs["sample"] == "section_1"].copy()


@pytest.fixture
def demo(run):
    def demo(adata: anndata.AnnData, folder: Path, *options: str):
        path = folder / "tissue.h5ad"
        adata.write_h5ad(path)
        return run("demo", path, "--out", folder / "out", *SHORT, *options)

    return demo


def test_results_are_printed_and_written(demo, section, tmp_path):
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    for text in ("SAGEFM", "mean of the neighbours", "PCA of the smoothed counts", "ARI", "Built the neighbour graph"):
        assert text in result.output
    for name in ("section.h5ad", "domains.png", "recovery.png"):
        assert str(tmp_path / "out" / name) in result.output
    written = anndata.read_h5ad(tmp_path / "out" / "section.h5ad")
    assert written.obs_names.equals(section.obs_names)
    assert np.isfinite(written.obsm["X_sagefm"]).all()
    n_true = section.obs["annotation"].nunique()
    assert list(written.obs["sagefm_domain"].cat.categories) == [str(i + 1) for i in range(n_true)]
    for name in ("domains.png", "recovery.png"):
        assert matplotlib.image.imread(tmp_path / "out" / name).std() > 0


def test_other_packages_are_silent(demo, section, tmp_path):
    output = demo(section, tmp_path).output
    assert not [text for text in ("GPU", "litlogger", "Seed set", "Trainer.fit", "INFO") if text in output]


def test_two_runs_give_the_same_results(demo, section, tmp_path):
    first, second = (demo(section, tmp_path).output.split("genes masked at random")[1] for _ in range(2))
    assert first == second


def test_packaged_weights_are_compared_if_they_know_the_genes(demo, section, tmp_path):
    left_out = demo(section, tmp_path)
    assert "human-mini, the weights that come with sagefm, are left out: The section has " in left_out.output
    assert "zero-shot" not in left_out.output
    human = section[:, :90].copy()
    genes = read_card(packaged_weights()["human-mini"])["genes"]
    human.var_names = genes[: human.n_vars]
    few = demo(human, tmp_path)
    assert few.exit_code == 0 and "are left out" in few.output  # 90 of 17,998 genes
    wide = sagefm.datasets.simulated_tissue(10, 10, n_genes=1700)
    wide.var_names = genes[: wide.n_vars]
    found = demo(wide, tmp_path)
    assert found.exit_code == 0, found.output
    assert found.output.count("human-mini, zero-shot") == 2  # masked genes and domains
    assert list(anndata.read_h5ad(tmp_path / "out" / "section.h5ad").obsm) == ["X_sagefm", "programmes", "spatial"]


def test_on_simulated_tissue_packaged_weights_get_a_section_with_their_genes(run, tmp_path, monkeypatch):
    tissue = sagefm.datasets.simulated_tissue(14, 14, n_genes=200)
    monkeypatch.setattr("sagefm.cli._demo.simulated_tissue", lambda seed: tissue.copy())
    result = run("demo", "--out", tmp_path, *SHORT)
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("They know human genes"))
    assert f"17,998 genes on the same {tissue.n_obs} spots" in line
    r, neighbors, ari = (float(re.search(rf"{text} ([-\d.]+\d)", line)[1]) for text in ("500,", "neighbours", "ARI"))
    assert r > neighbors + 0.02 and ari > 0.2


def test_without_annotation_domains_are_not_compared(demo, section, tmp_path):
    del section.obs["annotation"]
    result = demo(section, tmp_path, "--n-domains", "3")
    assert result.exit_code == 0, result.output
    assert "no categories to compare them with" in result.output
    assert "ARI" not in result.output
    written = anndata.read_h5ad(tmp_path / "out" / "section.h5ad")
    assert list(written.obs["sagefm_domain"].cat.categories) == ["1", "2", "3"]


def test_unlabelled_spots_are_ignored(demo, section, tmp_path):
    section.obs["annotation"] = section.obs["annotation"].cat.remove_categories(["layer_1"])
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    assert f"{section.obs['annotation'].nunique()} domains" in result.output


def test_several_sections_and_a_layer(demo, tissue, tmp_path):
    tissue = tissue.copy()
    tissue.layers["counts"] = tissue.X
    tissue.X = np.full(tissue.shape, -1.0, dtype=np.float32)
    result = demo(tissue, tmp_path, "--sample-key", "sample", "--layer", "counts")
    assert result.exit_code == 0, result.output
    assert "(2 sections)" in result.output


def test_sections_may_be_numbered():
    assert are_categories(pd.Series(np.arange(40).repeat(5)))
    assert not are_categories(pd.Series(np.arange(40).repeat(5)), max_numbers=30)


def test_only_held_out_spots_are_scored(demo, section, tmp_path, monkeypatch):
    """Both models are scored in the same spots, for the same genes, and the table says how many."""
    section = sagefm.datasets.simulated_tissue(10, 10, n_genes=1800)
    known = read_card(packaged_weights()["human-mini"])["genes"][:1750]
    section.var_names = [*known, *(f"NEW{i}" for i in range(50))]
    calls, drawn = [], []
    score, draw = sagefm.SAGEFM.get_masked_recovery, sagefm.pl.recovery

    def recorded(model, **options):
        calls.append((model, options, score(model, **options)))
        return calls[-1][2]

    monkeypatch.setattr(sagefm.SAGEFM, "get_masked_recovery", recorded)
    monkeypatch.setattr("sagefm.cli._demo_report.pl.recovery", lambda table: drawn.append(table) or draw(table))
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    (_, second, zero_shot), (trained, first, table) = calls
    assert first["indices"].tolist() == second["indices"].tolist() == sorted(trained.validation_indices)
    assert table.attrs["spots"] == "held out" and first["n_masks"] == second["n_masks"] == 3
    n_spots = len(trained.validation_indices)
    assert 0 < n_spots < section.n_obs / 2
    assert len(table) == 1800 and len(zero_shot) == 1750
    assert drawn[0].index.tolist() == section.var_names[:1750].tolist()
    n_genes = drawn[0]["r"].notna().sum()
    assert f"{n_genes:,} genes masked at random in {n_spots} held-out spots" in result.output
    assert f"truth in {n_spots} held-out spots" in result.output
    assert "In so few spots scores vary by chance" in result.output
    cells = next(line.split("  ") for line in result.output.splitlines() if line.strip().startswith("noise ceiling"))
    r_max = zero_shot.dropna(subset="r").nlargest(500, "mean_expression")["r_max"].mean()
    assert f"{r_max:.3f}" in [cell.strip() for cell in cells]


def test_counts_that_are_not_whole_have_no_noise_ceiling(demo, section, tmp_path):
    section.X = section.X * 1.5
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    assert "noise ceiling" not in result.output and "nan" not in result.output


def measured(section):
    section.obs["annotation"] = np.random.default_rng(0).normal(size=section.n_obs)


def numbered(section):
    section.obs["annotation"] = np.arange(section.n_obs)


def numbered_as_text(section):
    section.obs["annotation"] = [f"{value:.4f}" for value in np.random.default_rng(0).normal(size=section.n_obs)]


def counted(section):
    section.obs["annotation"] = pd.array(np.arange(section.n_obs) // 3, dtype="Int64")


def with_barcodes(section):
    section.obs["annotation"] = section.obs_names


@pytest.mark.parametrize("label", [measured, numbered, numbered_as_text, counted, with_barcodes])
def test_labels_that_are_no_categories_are_not_the_truth(demo, section, tmp_path, label):
    label(section)
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    n_values = section.obs["annotation"].nunique()
    line = f"found {n_values} different values in {section.n_obs} spots. Domains are not compared with them."
    assert f"Expected categories in obs['annotation']; {line}" in result.output
    assert "7 domains" in result.output and "ARI" not in result.output


def test_labels_may_be_a_few_whole_numbers_and_empty_text_is_missing(demo, section, tmp_path):
    section.obs["annotation"] = section.obs["annotation"].cat.codes.astype(str).replace("0", "")
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    assert f"{section.obs['annotation'].nunique() - 1} domains: adjusted Rand index" in result.output


def test_a_graph_is_enough(demo, section, tmp_path):
    sagefm.SAGEFM.setup_anndata(section)
    for key in [key for key in section.uns if key.startswith("_scvi")]:
        del section.uns[key]
    section.obsm.clear()
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    assert "No map of the domains, because there are no coordinates in obsm['spatial']" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"section.h5ad", "recovery.png"}


def test_warnings_of_sagefm_are_shown(demo, section, tmp_path):
    section.X = section.X * 1.5
    result = demo(section, tmp_path)
    assert result.exit_code == 0, result.output
    assert "Warning: X has" in result.output


def negative(adata):
    adata.X[0, 0] = -1


def without_coordinates(adata):
    adata.obsm.clear()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (negative, [], "negative values"),
        (without_coordinates, [], "neither a neighbour graph nor coordinates"),
        (None, ["--layer", "counts"], "layer='counts' is not in layers"),
        (None, ["--sample-key", "slide"], "sample_key='slide' is not a column of obs"),
        (None, ["--n-domains", "1000"], "cannot form 1000 domains"),
        (measured, ["--sample-key", "annotation"], "Expected obs['annotation'] to name the section of each spot"),
    ],
)
def test_errors_in_the_input_end_in_one_line(demo, section, tmp_path, spoil, options, message, assert_one_line):
    if spoil:
        spoil(section)
    assert_one_line(demo(section, tmp_path, *options), message)
    assert not (tmp_path / "out" / "section.h5ad").exists()


def test_a_file_of_another_kind_ends_in_one_line(run, tmp_path, assert_one_line):
    path = tmp_path / "notes.h5ad"
    path.write_text("not a section")
    assert_one_line(run("demo", path, "--out", tmp_path), f"{path} cannot be read")


def test_a_missing_file_is_a_usage_error(run, tmp_path):
    assert run("demo", tmp_path / "nothing.h5ad").exit_code == 2
