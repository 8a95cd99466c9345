"""`sagefm embed`."""

import anndata as ad
import numpy as np
import pytest

import sagefm


@pytest.fixture
def embed(run, trained):
    return lambda sections, out, *more: run("embed", trained[0] / "weights", *sections, "--out", out, *more)


@pytest.fixture
def bad(table, tmp_path):
    """A section of another species, a file that is not a section, and one that does not exist."""
    mouse = ad.read_h5ad(table.parent / "section_1.h5ad")
    mouse.var_names = mouse.var_names.str.capitalize()
    mouse.write_h5ad(tmp_path / "mouse.h5ad")
    return [tmp_path / "mouse.h5ad", table.parent / "broken.h5ad", tmp_path / "none.h5ad"]


def test_failures_do_not_stop_the_others_and_finished_sections_are_skipped(embed, trained, table, bad, tmp_path):
    good = [table.parent / "section_1.h5ad", table.parent / "section_2.h5ad"]
    out = tmp_path / "out"
    result = embed([bad[0], good[0], *bad[1:], good[1]], out)
    assert result.exit_code == 1 and "3 of 5 sections failed" in result.output
    for text in ("orthologues", "file signature not found", "none.h5ad does not exist"):
        assert text in result.output
    written = ad.read_h5ad(out / "section_1.h5ad")
    model = sagefm.SAGEFM.from_pretrained(trained[0] / "weights", ad.read_h5ad(good[0]))
    np.testing.assert_array_equal(written.obsm["X_sagefm"], model.get_latent_representation())
    assert written.obs.equals(ad.read_h5ad(good[0]).obs)
    before = (out / "section_1.h5ad").stat().st_mtime_ns
    again = embed(good, out)
    assert again.exit_code == 0 and again.output.count("done before") == 2
    assert (out / "section_1.h5ad").stat().st_mtime_ns == before
    other = embed(good, out, "--key-added", "X_other")
    assert other.output.count("embedded") == 2


@pytest.fixture
def ambiguous(table, tmp_path):
    """A section with two layers of counts, two kinds of coordinates, two of gene names, and two halves."""
    section = ad.read_h5ad(table.parent / "section_1.h5ad")
    section.layers["half"] = (section.X / 2).floor()
    section.obsm["other"] = np.random.default_rng(0).permutation(section.obsm["spatial"])
    section.obs["half"] = np.where(section.obsm["spatial"][:, 0] < np.median(section.obsm["spatial"][:, 0]), "a", "b")
    section.var["reversed"] = section.var_names[::-1]
    del section.obsp
    section.write_h5ad(tmp_path / "section.h5ad")
    return tmp_path / "section.h5ad"


@pytest.mark.parametrize(
    "option",
    [("--layer", "half"), ("--spatial-key", "other"), ("--sample-key", "half"), ("--gene-symbols", "reversed")],
)
def test_a_section_is_embedded_again_with_another_setup_key(embed, ambiguous, tmp_path, option):
    def latent(*more):
        result = embed([ambiguous], tmp_path / "out", *more)
        assert result.exit_code == 0, result.output
        return result.output, ad.read_h5ad(tmp_path / "out" / "section.h5ad").obsm["X_sagefm"]

    _, first = latent()
    output, other = latent(*option)
    assert "embedded" in output and not np.allclose(first, other, atol=1e-3)
    assert "done before" in latent(*option)[0]
    np.testing.assert_array_equal(latent()[1], first)


def test_a_section_is_embedded_again_by_another_version_or_after_a_change(embed, ambiguous, tmp_path, monkeypatch):
    embed([ambiguous], tmp_path / "out")
    assert "done before" in embed([ambiguous], tmp_path / "out").output
    monkeypatch.setattr("sagefm.cli._embed.__version__", "0.0.1")
    assert "embedded" in embed([ambiguous], tmp_path / "out").output
    assert "done before" in embed([ambiguous], tmp_path / "out").output
    section = ad.read_h5ad(ambiguous)
    section.X[0, 0] += 1
    section.write_h5ad(ambiguous)
    assert "embedded" in embed([ambiguous], tmp_path / "out").output
    about = ad.read_h5ad(tmp_path / "out" / "section.h5ad").uns["sagefm"]
    assert set(about) == {"weights_sha256", "section_sha256", "setup", "version"} and about["version"] == "0.0.1"


def test_a_zarr_store_gives_the_same_embedding_and_another_folder_is_refused(embed, table, tmp_path):
    section = ad.read_h5ad(table.parent / "section_1.h5ad")
    section.write_zarr(tmp_path / "section.zarr")
    (tmp_path / "folder").mkdir()
    result = embed([tmp_path / "section.zarr", tmp_path / "folder"], tmp_path / "out")
    assert result.exit_code == 1 and "1 of 2 sections failed" in result.output
    assert "not an .h5ad file, a .zarr folder or a Space Ranger folder" in " ".join(result.output.split())
    embed([table.parent / "section_1.h5ad"], tmp_path / "out")
    store, file = (ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad") for name in ("section", "section_1"))
    np.testing.assert_array_equal(store.obsm["X_sagefm"], file.obsm["X_sagefm"])


def test_spots_without_counts_have_no_embedding(embed, table, tmp_path):
    section = ad.read_h5ad(table.parent / "section_1.h5ad")
    section.layers["raw"] = section.X.copy()
    section.layers["raw"][4] = 0
    section.write_h5ad(tmp_path / "gap.h5ad")
    result = embed([tmp_path / "gap.h5ad"], tmp_path / "out", "--layer", "raw")
    assert result.exit_code == 0, result.output
    latent = ad.read_h5ad(tmp_path / "out" / "gap.h5ad").obsm["X_sagefm"]
    assert np.flatnonzero(np.isnan(latent).any(axis=1)).tolist() == [4]


def test_sections_with_the_same_file_name_are_refused(embed, table, tmp_path, assert_one_line):
    (tmp_path / "section_1.h5ad").write_bytes((table.parent / "section_1.h5ad").read_bytes())
    same = [table.parent / "section_1.h5ad", tmp_path / "section_1.h5ad"]
    assert_one_line(embed(same, tmp_path / "out"), "Several sections would be written to section_1.h5ad")


def test_a_dask_cluster_gives_the_same_embeddings(embed, table, bad, tmp_path):
    distributed = pytest.importorskip("distributed")
    good = [table.parent / f"section_{number}.h5ad" for number in (1, 2, 3)]
    cluster = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "processes": False}
    with distributed.LocalCluster(**cluster) as local:
        result = embed([*good, bad[1]], tmp_path / "there", "--dask", local.scheduler_address)
    assert result.exit_code == 1 and result.output.count("embedded") == 3 and "1 of 4 sections failed" in result.output
    embed(good, tmp_path / "here")
    for file in good:
        here, there = (ad.read_h5ad(tmp_path / folder / file.name) for folder in ("here", "there"))
        np.testing.assert_array_equal(here.obsm["X_sagefm"], there.obsm["X_sagefm"])
