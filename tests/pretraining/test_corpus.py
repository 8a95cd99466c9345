"""A corpus: sections are found, read from several formats and with different genes; bad ones are reported."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sagefm
from sagefm.data import normalization_of, registered_spots
from sagefm.pretraining import Corpus, CorpusDataModule
from sagefm.pretraining._vocabulary import gene_profile


def test_folder_pattern_list_and_table_give_the_same_corpus(folder, sections):
    files = sorted(folder.glob("*.h5ad"))
    table = pd.DataFrame({"path": [file.name for file in files], "patient": list("AABB")})
    table.to_csv(folder / "table.csv", index=False)
    given = [folder, str(folder / "s*.h5ad"), files, folder / "table.csv"]
    corpora = [Corpus(sections) for sections in given]
    for corpus in corpora:
        assert list(corpus.table["sample"]) == ["s0", "s1", "s2", "s3"]
        assert corpus.n_obs == sum(section.n_obs for section in sections)
    assert list(corpora[-1].table["patient"]) == list("AABB")
    assert "4 sections" in repr(corpus) and "0 skipped" in repr(corpus)


def test_invalid_lists_of_sections_and_arguments_are_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No sections in"):
        Corpus(tmp_path / "empty")
    with pytest.raises(KeyError, match="has no column 'path'; found"):
        Corpus(pd.DataFrame({"file": ["s0.h5ad"]}))
    with pytest.raises(ValueError, match="Several sections have the name 's0'"):
        Corpus([folder / "s0.h5ad", folder / "s0.h5ad"])
    with pytest.raises(ValueError, match="on_error='stop' is not known"):
        Corpus(folder, on_error="stop")
    with pytest.raises(ValueError, match="min_share=0 must be above 0"):
        Corpus(folder, min_share=0)


def test_zarr_csc_dense_and_integer_counts_are_read_in_the_same_way(sections, tmp_path):
    section = sections[0]
    section.write_h5ad(tmp_path / "a.h5ad")
    section.write_zarr(tmp_path / "b.zarr")
    for name, counts in {"c": sp.csc_matrix(section.X), "d": section.X.toarray().astype(np.int64)}.items():
        ad.AnnData(counts, var=section.var[[]], obsm={"spatial": section.obsm["spatial"]}).write_h5ad(
            tmp_path / f"{name}.h5ad"
        )
    corpus = Corpus(tmp_path)
    assert list(corpus.report["status"]) == ["used"] * 4
    normalization = normalization_of(corpus.registry, "size")
    first, *others = (corpus.open(number, normalization) for number in range(4))
    rows = np.arange(first.n_obs)
    for other in others:
        np.testing.assert_array_equal(other.counts(rows).toarray(), first.counts(rows).toarray())
        np.testing.assert_allclose(other.neighborhood_means(rows), first.neighborhood_means(rows), rtol=1e-6)


def space_ranger(folder, section, header=False):
    """Write a section as Space Ranger does, without the images."""
    (folder / "spatial").mkdir(parents=True)
    counts = sp.csc_matrix(section.X.T.astype(np.int32))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"], file.attrs["chemistry_description"] = [b"lib"], "Spatial 3' v1"
        matrix = file.create_group("matrix")
        for name in ("data", "indices", "indptr", "shape"):
            matrix[name] = getattr(counts, name)
        matrix["barcodes"] = section.obs_names.to_numpy().astype("S")
        features = matrix.create_group("features")
        for name in ("id", "name"):
            features[name] = section.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array([b"Gene Expression"] * section.n_vars)
        features["genome"] = np.array([b"GRCh38"] * section.n_vars)
    coordinates = section.obsm["spatial"].astype(int)
    table = pd.DataFrame({"barcode": section.obs_names, "in_tissue": 1, "array_row": 0, "array_col": 0})
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = coordinates[:, 1], coordinates[:, 0]
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    table[::-1].to_csv(folder / "spatial" / name, index=False, header=header)


@pytest.mark.parametrize("header", [False, True])
def test_space_ranger_folder_is_a_section(sections, tmp_path, header):
    space_ranger(tmp_path / "ranger", sections[0], header)
    sections[0].write_h5ad(tmp_path / "same.h5ad")
    corpus = Corpus(tmp_path)
    assert list(corpus.report["status"]) == ["used", "used"], list(corpus.report["reason"])
    normalization = normalization_of(corpus.registry, "size")
    ranger, same = (corpus.open(number, normalization) for number in range(2))
    rows = np.arange(same.n_obs)
    np.testing.assert_array_equal(ranger.counts(rows).toarray(), same.counts(rows).toarray())
    assert (ranger.graph != same.graph).nnz == 0


def test_genes_are_selected_by_their_share_of_sections(sections, tmp_path):
    for number, section in enumerate(sections):
        section[:, : 90 - 10 * number].copy().write_h5ad(tmp_path / f"s{number}.h5ad")
    total = sum((np.asarray(section.X[:, :60].sum(axis=0)).ravel() > 0).astype(int) for section in sections)
    assert len(Corpus(tmp_path, min_share=1)) == 4
    assert len(Corpus(tmp_path, min_share=1).genes) == int((total == 4).sum())
    half = Corpus(tmp_path)
    assert 60 < len(half.genes) <= 80 and list(half.genes) == sorted(half.genes)
    assert half.table["n_genes"].is_monotonic_decreasing
    given = Corpus(tmp_path, genes=["GENE0010", "GENE0003"])
    assert list(given.genes) == ["GENE0010", "GENE0003"]


def test_sections_without_a_shared_gene_are_refused(sections, tmp_path):
    for number, part in enumerate((slice(0, 40), slice(40, 90))):
        sections[0][:, part].copy().write_h5ad(tmp_path / f"s{number}.h5ad")
    with pytest.raises(ValueError, match="No gene has counts in 100% of the 2 sections"):
        Corpus(tmp_path, min_share=1)


def test_gene_names_from_a_column_of_var(sections, tmp_path):
    for number, section in enumerate(sections[:2]):
        section = section.copy()
        section.var["symbol"] = section.var_names
        section.var_names = [f"ENSG{i:04d}.{number}" for i in range(section.n_vars)]
        section.write_h5ad(tmp_path / f"s{number}.h5ad")
    assert Corpus(tmp_path, gene_symbols="symbol").genes.isin(sections[0].var_names).all()


def test_duplicate_gene_names_of_a_section_are_made_unique(sections, tmp_path):
    section = sections[0].copy()
    names = section.var_names.to_list()
    section.var_names = [names[0], names[0], *names[2:]]
    section.write_h5ad(tmp_path / "s.h5ad")
    genes = Corpus(tmp_path / "s.h5ad", genes=names).genes
    assert len(genes) == 90


def moments(corpus, normalization):
    """Return mean and standard deviation of the genes over all sections."""
    data = CorpusDataModule(corpus, validation_size=0)
    data.connect(normalization, corpus.genes)
    return data.gene_moments()


def test_one_section_gives_the_constants_of_setup_anndata(sections, tmp_path):
    section = sections[0].copy()
    section.write_h5ad(tmp_path / "s.h5ad")
    corpus = Corpus(tmp_path, genes=section.var_names)
    sagefm.SAGEFM.setup_anndata(section)
    model, same = sagefm.SAGEFM(section), sagefm.SAGEFM(registry=corpus.registry)
    assert same.target_depth == pytest.approx(model.target_depth)
    np.testing.assert_allclose(same.module.normalization.profile, model.module.normalization.profile, rtol=1e-5)
    mean, deviation = moments(corpus, same.module.normalization)
    spots = registered_spots(model.adata_manager, model.module.normalization)
    expected = spots.gene_moments(np.arange(section.n_obs))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(deviation, expected[1], rtol=1e-4, atol=1e-4)


def test_profile_is_estimated_although_sections_lack_genes():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(40))
    known = rng.random((12, 40)) < 0.7
    depths = rng.integers(10**7, 10**8, 12)
    totals = np.stack([rng.multinomial(depth, truth) for depth in depths]) * known
    np.testing.assert_allclose(gene_profile(known, totals), truth, rtol=0.02, atol=1e-6)
    naive = totals.sum(axis=0) / totals.sum()
    assert np.abs(naive - truth).max() > 10 * np.abs(gene_profile(known, totals) - truth).max()


def test_moments_are_averaged_over_the_sections_that_have_the_gene(sections, tmp_path):
    sections[0].write_h5ad(tmp_path / "a.h5ad")
    sections[0][:, :50].copy().write_h5ad(tmp_path / "b.h5ad")
    corpus = Corpus(tmp_path, genes=sections[0].var_names)
    normalization = normalization_of(corpus.registry, "none")
    mean, _ = moments(corpus, normalization)
    expected = corpus.open(0, normalization).gene_moments(np.arange(sections[0].n_obs))[0]
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def spoil(section, folder, how):
    file = folder / "bad.h5ad"
    section = section.copy()
    if how == "negative":
        section.X[0, 0] = -1
    elif how == "no coordinates":
        section.obsm.clear()
    elif how == "mouse":
        section.var_names = section.var_names.str.capitalize()
    elif how == "other genes":
        section.var_names = [f"X{number}" for number in range(section.n_vars)]
    section.write_h5ad(file)
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:3000])
    elif how == "text":
        file.write_text("not a section")
    return file


BAD = {
    "negative": "negative values",
    "no coordinates": "neither a neighbour graph nor coordinates",
    "mouse": "mouse and human symbols",
    "other genes": "at least 10%, or 200 genes, are needed",
    "truncated": "truncated",
    "text": "file signature not found",
}


@pytest.mark.parametrize(("how", "reason"), BAD.items())
def test_bad_section_is_reported_or_raises(folder, sections, how, reason):
    spoil(sections[0], folder, how)
    corpus = Corpus(folder)
    line = corpus.report.set_index("sample").loc["bad"]
    assert len(corpus) == 4 and line["status"] == "skipped" and reason in line["reason"]
    with pytest.raises(ValueError, match=r"bad\.h5ad cannot be used"):
        Corpus(folder, on_error="raise")


def test_missing_file_and_missing_layer_are_reported(folder):
    corpus = Corpus([folder / "s0.h5ad", folder / "none.h5ad"])
    assert "none.h5ad does not exist" in corpus.report["reason"][1]
    with pytest.raises(ValueError, match="No section can be used; the first of 4 failed with .*layers/raw"):
        Corpus(folder, layer="raw")


def test_empty_spots_are_left_out_and_samples_are_not_joined(tmp_path):
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=2)
    tissue.X[3] = 0
    tissue.write_h5ad(tmp_path / "two.h5ad")
    corpus = Corpus(tmp_path, sample_key="sample")
    assert corpus.n_obs == tissue.n_obs - 1
    samples = np.delete(tissue.obs["sample"].astype(str).to_numpy(), 3)
    edges = corpus.open(0, normalization_of(corpus.registry, "size")).graph.tocoo()
    assert (samples[edges.row] == samples[edges.col]).all()


def test_mouse_section_is_skipped_among_human_ones(real_section, tmp_path):
    names = ["her2st_andersson2021__A1", "her2st_andersson2021__B1", "mouse_mob_stahl2016__rep12"]
    for name in names:
        real_section(name).write_h5ad(tmp_path / f"{name}.h5ad")
    corpus = Corpus(tmp_path)
    assert list(corpus.table["sample"]) == names[:2] and len(corpus.genes) > 10_000
    assert "orthologues" in corpus.report["reason"][2]


def test_several_processes_give_the_same_index(folder):
    assert Corpus(folder, n_jobs=2).table.equals(Corpus(folder).table)


def test_duplicate_given_genes_are_refused(folder, sections):
    genes = sections[0].var_names
    with pytest.raises(ValueError, match=r"Some of the given genes appear more than once \(1, for example 'GENE0001'"):
        Corpus(folder, genes=genes.insert(3, "GENE0001"))


def test_column_of_samples_must_exist_and_be_complete(tmp_path, sections):
    gaps = sections[0].copy()
    gaps.obs["slide"] = ["a"] * 5 + [None] * (gaps.n_obs - 5)
    gaps.write_h5ad(tmp_path / "s0.h5ad")
    with pytest.raises(ValueError, match=r"sample_key='none' is not a column of obs; found .*'slide'"):
        Corpus(tmp_path, sample_key="none")
    with pytest.raises(ValueError, match=r"obs\['slide'\] is missing for"):
        Corpus(tmp_path, sample_key="slide")


def test_space_ranger_folder_has_no_layers(tmp_path, sections):
    space_ranger(tmp_path / "ranger", sections[0], header=True)
    with pytest.raises(ValueError, match="has no layers; leave `layer` out"):
        Corpus(tmp_path, layer="counts")
