"""Real sections, used as in practice. Skipped if the folder of sections does not exist."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import scvi
import squidpy as sq

import sagefm

VISIUM = [
    "dlpfc_maynard2021__151673",
    "crc_galeanonino2022__CRC_16",
    "tnbc_bassiouni2023__120E",
    "dlpfc_huukimyers2024__Br8325_ant",
    "prostate_10x_giottomini__CP",
]


@pytest.mark.parametrize("name", VISIUM)
def test_five_lines_then_scanpy_and_squidpy(real_section, name):
    adata = real_section(name)
    adata.layers["counts"] = adata.X
    adata.obs["sample"] = name

    sq.gr.spatial_neighbors_grid(adata, n_rings=2)
    sagefm.SAGEFM.setup_anndata(adata, layer="counts", sample_key="sample")
    model = sagefm.SAGEFM(adata, n_hidden=32)
    model.train(max_epochs=1, enable_progress_bar=False)
    model.get_latent_representation()
    recovered = model.impute_masked(genes=list(adata.var_names[:2]))

    assert np.isfinite(adata.obsm["X_sagefm"]).all() and np.isfinite(recovered).all(axis=None)
    sc.pp.neighbors(adata, use_rep="X_sagefm")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
    if adata.obs["leiden"].nunique() > 1:
        sq.gr.nhood_enrichment(adata, cluster_key="leiden", n_perms=10, show_progress_bar=False)
        assert "leiden_nhood_enrichment" in adata.uns
    sq.pl.spatial_scatter(adata, color="leiden", shape=None)
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("tnbc_bassiouni2023__120E", "hexagonal grid, 2 rings"),
        ("her2st_andersson2021__A1", "square grid, 2 rings"),
        ("breast_msti__LBC_DCIS_IC", "square grid, 2 rings"),
        ("mouse_mob_stahl2016__rep12", "square grid, 2 rings"),
        ("heart_asp2019__6_CN74_E2_HE", "irregular layout, 14 nearest spots"),
    ],
)
def test_spot_layouts_are_recognised(real_section, caplog, name, layout):
    adata = real_section(name)
    with caplog.at_level("INFO", logger="sagefm"):
        sagefm.SAGEFM.setup_anndata(adata)
    assert layout in caplog.text


def test_a_human_model_refuses_a_mouse_section_and_says_why(real_section):
    human = real_section("her2st_andersson2021__A1")
    sagefm.SAGEFM.setup_anndata(human)
    model = sagefm.SAGEFM(human, n_hidden=8)
    model.train(max_epochs=1, enable_progress_bar=False)
    with pytest.raises(ValueError, match="letter case, as mouse and human symbols do"):
        model.get_latent_representation(real_section("mouse_mob_stahl2016__rep12"))


def test_a_smaller_panel_is_embedded_and_its_missing_genes_are_predicted(real_section):
    whole = real_section("tnbc_bassiouni2023__120E")
    sagefm.SAGEFM.setup_anndata(whole)
    model = sagefm.SAGEFM(whole, n_hidden=32)
    model.train(max_epochs=2, enable_progress_bar=False)
    panel = real_section("dlpfc_huukimyers2024__Br8325_ant")
    missing = [gene for gene in ("ACTB", "GAPDH", "TMSB10", "EEF1A1", "RPLP0") if gene not in panel.var_names]
    assert missing
    assert np.isfinite(model.get_latent_representation(panel)).all()
    assert model.impute_masked(panel, genes=missing).shape == (panel.n_obs, len(missing))


def test_recovery_on_cortex_beats_the_mean_of_the_neighbours(real_section):
    adata = real_section("dlpfc_maynard2021__151673")
    scvi.settings.seed = 0
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=30, enable_progress_bar=False)
    totals = model.get_masked_recovery().attrs
    assert totals["top500_r"] > totals["top500_r_neighbors"] + 0.05


def test_a_fit_to_a_held_out_section_recovers_more_than_the_network_alone(real_section):
    model = sagefm.SAGEFM.from_pretrained("human-mini", real_section("her2st_andersson2021__F1"))
    network, fitted = (model.get_masked_recovery(fit_section=fit).attrs for fit in (False, True))
    assert fitted["top500_r"] > network["top500_r"] + 0.01 > network["top500_r_neighbors"] + 0.05
