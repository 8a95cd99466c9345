"""Measured and recovered genes on the tissue."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sagefm

GENES = ["LIG1", "TGT1", "GENE0045"]


@pytest.fixture(scope="module")
def sections():
    return sagefm.datasets.simulated_tissue(12, 12, n_genes=150, n_sections=2)


@pytest.fixture(scope="module")
def pretrained(sections, tmp_path_factory):
    """A model on `sections` with weights from a file, which does not say on which spots they were trained."""
    other = sections.copy()
    sagefm.SAGEFM.setup_anndata(other, sample_key="sample")
    model = sagefm.SAGEFM(other, n_hidden=32, n_latent=8)
    model.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("weights") / "weights"
    model.save_pretrained(folder)
    return sagefm.SAGEFM.from_pretrained(folder, sections, sample_key="sample")


def values(ax):
    return np.asarray(ax.collections[0].get_array())


def logged(adata, gene, target_sum):
    counts = adata[:, gene].X.toarray().ravel()
    return np.log1p(counts * target_sum / np.asarray(adata.X.sum(axis=1)).ravel())


def test_pairs_are_wrapped_and_share_a_colour_scale(sections, pretrained):
    found = pretrained.impute_masked(genes=GENES)
    axes = sagefm.pl.recovered(sections, found, sample_key="sample")
    assert axes.shape == (6, 2)
    assert [axes[row, 0].get_subplotspec().rowspan.start for row in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [ax.get_title().split("\n")[:2] for ax in axes[1]] == [
        ["LIG1, measured", "section_2"],
        ["LIG1, recovered", "section_2"],
    ]
    for gene in range(3):
        scales = {ax.collections[0].get_clim() for ax in axes[2 * gene : 2 * gene + 2].ravel()}
        assert len(scales) == 1
    assert sagefm.pl.recovered(sections, found, "TGT1").shape == (1, 2)


def test_values_and_r_are_those_of_the_section(sections, pretrained):
    found = pretrained.impute_masked(genes=GENES[:1])
    axes = sagefm.pl.recovered(sections, found, sample_key="sample")
    rows = (sections.obs["sample"] == "section_2").to_numpy()
    counts = sections.X.toarray()
    measured = np.log1p(counts[:, sections.var_names.get_loc("LIG1")] * pretrained.target_depth / counts.sum(axis=1))[
        rows
    ]
    np.testing.assert_allclose(values(axes[1, 0]), measured, rtol=1e-4)
    np.testing.assert_allclose(values(axes[1, 1]), found["LIG1"][rows], rtol=1e-6)
    r = np.corrcoef(measured, found["LIG1"][rows])[0, 1]
    assert axes[1, 1].get_title().endswith(f"r = {r:.2f}")


def test_there_is_no_r_of_spots_that_the_model_was_trained_on(trained_model):
    adata = trained_model.adata
    trained_on = trained_model.impute_masked(genes=GENES[:1])
    assert trained_on.attrs["spots"] == "trained on"
    assert sagefm.pl.recovered(adata, trained_on)[0, 1].get_title() == "LIG1, recovered"
    held_out = trained_model.impute_masked(genes=GENES[:1], indices=trained_model.validation_indices)
    assert held_out.attrs["spots"] == "held out"
    drawn = sagefm.pl.recovered(adata, held_out)[0, 1]
    assert "r = " in drawn.get_title()
    assert np.isfinite(values(drawn)).sum() == len(held_out)


@pytest.mark.parametrize("library_size", [1, 1e4, "latent"])
def test_denoised_expression_is_drawn_on_the_scale_of_the_counts(sections, pretrained, library_size):
    denoised = pretrained.get_normalized_expression(genes=GENES, library_size=library_size)
    weights = None if library_size == "latent" else np.asarray(sections.X.sum(axis=1)).ravel()
    for pair in sagefm.pl.recovered(sections, denoised):
        measured, drawn = (np.average(np.expm1(values(ax)), weights=weights) for ax in pair)
        assert drawn == pytest.approx(measured, rel=0.05)  # library sizes are estimated
    counts = sections[:, "LIG1"].X.toarray().ravel()
    is_raw = np.allclose(np.expm1(values(sagefm.pl.recovered(sections, denoised)[0, 0])), counts)
    assert is_raw == (library_size == "latent")


def test_layers_are_drawn_without_r(sections, pretrained):
    adata = sections.copy()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    pretrained.impute_masked(adata, genes=GENES, layer_added="recovered")
    axes = sagefm.pl.recovered(adata, "recovered", GENES[0], target_sum=1000)
    assert axes[0, 1].get_title() == "LIG1, recovered"
    np.testing.assert_allclose(values(axes[0, 1]), adata[:, "LIG1"].layers["recovered"].ravel())
    counts = adata.X.toarray()
    np.testing.assert_allclose(
        values(axes[0, 0]),
        np.log1p(counts[:, sections.var_names.get_loc("LIG1")] * 1000 / counts.sum(axis=1)),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="predictions of 150 genes"):
        sagefm.pl.recovered(adata, "recovered")


def test_predictions_in_obsm(sections, pretrained):
    panel = sections[:, sections.var_names != "LIG1"].copy()
    pretrained.impute_masked(panel, genes="LIG1", key_added="recovered")
    drawn = sagefm.pl.recovered(panel, "recovered")[0, 1]
    np.testing.assert_allclose(values(drawn), panel.obsm["recovered"]["LIG1"])
    with pytest.raises(TypeError, match="found ndarray"):
        sagefm.pl.recovered(panel, "spatial")


def test_genes_missing_from_the_panel_are_grey_where_the_measured_would_be(sections, pretrained):
    panel = sections[:, sections.var_names != "LIG1"].copy()
    found = pretrained.impute_masked(panel, genes=GENES[:1])
    measured, drawn = sagefm.pl.recovered(panel, found)[0]
    assert np.isnan(values(measured)).all() and np.isfinite(values(drawn)).all()
    assert (measured.get_title(), drawn.get_title()) == ("LIG1, not measured", "LIG1, recovered")


def test_sections_without_coordinates_have_no_panels(sections, pretrained):
    found = pretrained.impute_masked(genes=GENES[:1])
    adata = sections.copy()
    adata.obsm["spatial"] = np.where(adata.obs[["sample"]] == "section_1", np.nan, adata.obsm["spatial"])
    assert sagefm.pl.recovered(adata, found, sample_key="sample").shape == (1, 2)
    assert "r = " in sagefm.pl.recovered(adata, found)[0, 1].get_title()
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="No spot has finite coordinates"):
        sagefm.pl.recovered(adata, found)


def test_counts_are_read_from_a_backed_file(sections, pretrained, tmp_path):
    found = pretrained.impute_masked(genes=GENES[:1])
    sections.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    drawn = [values(sagefm.pl.recovered(adata, found)[0, 0]) for adata in (backed, sections)]
    np.testing.assert_array_equal(*drawn)
    backed.file.close()


def test_missing_counts_are_named(sections, pretrained):
    found = pretrained.impute_masked(genes=GENES[:1])
    adata = sections.copy()
    adata.layers["counts"], adata.X = adata.X, None
    with pytest.raises(KeyError, match="adata has no X; pass the layer .* \\['counts'\\]"):
        sagefm.pl.recovered(adata, found)


def test_panels_are_drawn_on_given_axes(sections, pretrained):
    found = pretrained.impute_masked(genes=GENES[:1])
    _, axes = plt.subplots(1, 2)
    assert list(sagefm.pl.recovered(sections, found, axes=axes).ravel()) == list(axes)
    with pytest.raises(ValueError, match="1 axes for 2 panels"):
        sagefm.pl.recovered(sections, found, axes=axes[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"genes": "CD3E"}, KeyError, "'CD3E' is not among the 1 predicted genes"),
        ({"predicted": "denoised"}, KeyError, "predicted='denoised' is in neither layers nor obsm"),
        ({"predicted": np.ones((216, 1))}, TypeError, "must be a DataFrame, or a key of one; found ndarray"),
        ({"layer": "counts"}, KeyError, "layer='counts' is not in layers"),
        ({"scale": "log2"}, ValueError, "scale='log2' is not known"),
        ({"sample_key": "slide"}, KeyError, "'slide' is not a column of obs"),
        ({"spatial_key": "xy"}, KeyError, "spatial_key='xy' is not in obsm"),
    ],
)
def test_wrong_arguments_are_refused(sections, arguments, error, message):
    predicted = pd.DataFrame({"LIG1": 1.0}, index=sections.obs_names)
    with pytest.raises(error, match=message):
        sagefm.pl.recovered(sections, **{"predicted": predicted, **arguments})
    with pytest.raises(KeyError, match="No spot of `predicted` is in `adata`"):
        sagefm.pl.recovered(sections, predicted.set_axis(sections.obs_names + "x"))
