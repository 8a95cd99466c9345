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


def test_whole_genes_of_a_held_out_section_come_back_at_its_level(real_section):
    """Genes that it measures at their own; genes that were taken out of its panel within a factor of three, most."""
    adata = real_section("her2st_andersson2021__F1")
    model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
    measured = adata.to_df().sum()
    measured = measured[measured.index.isin(model.genes) & (measured >= 10)].sample(500, random_state=0)
    panel = adata[:, ~adata.var_names.isin(measured.index)].copy()
    masked, missing = (model.impute_masked(section, genes=measured.index, scale="counts") for section in (adata, panel))
    np.testing.assert_allclose(masked.sum(), measured, rtol=1e-3)
    ratio = missing.sum() / measured
    assert 0.67 < ratio.median() < 1.5
    assert ((ratio > 1 / 3) & (ratio < 3)).mean() > 0.8


def test_denoised_expression_of_a_held_out_section_predicts_unseen_counts_better_than_neighbours(real_section):
    adata = real_section("her2st_andersson2021__F1")
    counts = adata.X.toarray().astype(int)
    kept = np.random.default_rng(0).binomial(counts, 0.5)
    adata.X, rest = kept.astype(np.float32), (counts - kept) / (counts - kept).sum(axis=1, keepdims=True)
    model = sagefm.SAGEFM.from_pretrained("human-mini", adata)
    genes = adata.to_df()[adata.var_names.intersection(model.genes)].sum().nlargest(300).index
    denoised = model.get_normalized_expression(genes=genes, library_size=1e4)
    shares = adata.to_df().div(kept.sum(axis=1), axis=0)[genes]
    graph = adata.obsp["spatial_connectivities"]
    neighbors = (graph @ np.log1p(1e4 * shares.to_numpy())) / np.maximum(np.asarray(graph.sum(axis=1)), 1).reshape(
        -1, 1
    )
    truth = np.log1p(1e4 * rest[:, adata.var_names.get_indexer(genes)])
    r_model, r_neighbors = (
        np.mean([np.corrcoef(values[:, gene], truth[:, gene])[0, 1] for gene in range(len(genes))])
        for values in (np.log1p(denoised.to_numpy()), np.asarray(neighbors))
    )
    assert r_model > r_neighbors + 0.05
