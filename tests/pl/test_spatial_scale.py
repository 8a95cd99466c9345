"""Plots of variograms and of the stability of domains."""

import numpy as np
import pytest
import scanpy as sc

import sagefm


@pytest.fixture(scope="module")
def section():
    adata = sagefm.datasets.simulated_tissue(15, 12, n_genes=200, n_sections=2)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    sc.pp.pca(adata, n_comps=6)
    sagefm.tl.spatial_filter(adata, use_rep="X_pca", sample_key="sample")
    sagefm.tl.domains(adata, [3, 4, 5], use_rep="X_pca", smooth=1)
    return adata


def test_variograms_are_those_of_the_section(section):
    ax = sagefm.pl.variograms(section, "X_pca_filtered", section="section_1", n_axes=2)
    axes = section.uns["X_pca_filtered"]["axes"].query("section == 'section_1'")
    widest = (axes["variance"] * axes["spatial_share"]).idxmax()
    table = section.uns["X_pca_filtered"]["variograms"].query("section == 'section_1'")
    drawn = table[table["axis"] == axes.loc[widest, "axis"]]
    assert len(ax.lines) == 2
    assert np.allclose(ax.lines[0].get_ydata(), drawn["semivariance"] / axes.loc[widest, "variance"])


def test_sections_that_are_numbers_are_found(section):
    section.obs["number"] = section.obs["sample"].cat.codes
    sagefm.tl.spatial_filter(section, use_rep="X_pca", sample_key="number", key_added="numbered")
    found = [sagefm.pl.variograms(section, "numbered", section=name).lines[0].get_ydata() for name in (1, "1")]
    assert np.array_equal(*found)


def test_the_legend_of_variograms_hides_no_line(section):
    ax = sagefm.pl.variograms(section, "X_pca_filtered")
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_stability_marks_the_chosen_number(section):
    ax = sagefm.pl.stability(section)
    trend, ari, chosen = ax.lines
    assert chosen.get_xdata().tolist() == [section.uns["domain"]["params"]["n_domains"]]
    assert np.allclose(ari.get_ydata(), section.uns["domain"]["stability"]["ari"])
    assert np.ptp(np.diff(trend.get_ydata())) < 1e-9


def test_missing_results_are_named(section):
    with pytest.raises(KeyError, match="sagefm.tl.spatial_filter writes it"):
        sagefm.pl.variograms(section, "X_none")
    with pytest.raises(KeyError, match="section='none' is not in the results; found"):
        sagefm.pl.variograms(section, "X_pca_filtered", section="none")
    with pytest.raises(KeyError, match="with several numbers of domains"):
        sagefm.pl.stability(section, "X_pca_filtered")
