"""A corpus of sections: found, indexed once, of many kinds, with genes of their own; bad ones told."""

from dataclasses import replace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sagefm
from sagefm.data import SetupKeys, normalization_of, read_section, stamp_of
from sagefm.pretraining import Corpus
from sagefm.pretraining._index import _load, record_of
from sagefm.pretraining._vocabulary import gene_profile


@pytest.fixture(scope="module")
def sections() -> list[ad.AnnData]:
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=4)
    return [tissue[tissue.obs["sample"] == name].copy() for name in tissue.obs["sample"].cat.categories]


@pytest.fixture
def folder(sections, tmp_path):
    for number, section in enumerate(sections):
        section.write_h5ad(tmp_path / f"s{number}.h5ad")
    return tmp_path


def test_a_folder_a_pattern_a_list_and_a_table_are_the_same(folder, sections):
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


def test_what_is_no_list_of_sections_is_told(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="There are no sections in"):
        Corpus(tmp_path / "empty")
    with pytest.raises(KeyError, match="has no column 'path'; it has"):
        Corpus(pd.DataFrame({"file": ["s0.h5ad"]}))
    with pytest.raises(ValueError, match="'s0' stands for several sections"):
        Corpus([folder / "s0.h5ad", folder / "s0.h5ad"])
    with pytest.raises(ValueError, match="on_error='stop' is not known"):
        Corpus(folder, on_error="stop")
    with pytest.raises(ValueError, match="min_share=0 must be above 0"):
        Corpus(folder, min_share=0)


def test_the_index_saves_reading_and_notices_a_change(folder, sections, monkeypatch):
    index = folder / "index"
    first = Corpus(folder, index=index)
    read = []
    monkeypatch.setattr(
        "sagefm.pretraining._index.read_section", lambda path, keys: read.append(path.stem) or read_section(path, keys)
    )
    second = Corpus(folder, index=index)
    assert read == [] and second.table.equals(first.table)
    assert (second._records[0].graph != first._records[0].graph).nnz == 0
    sections[2][:50].write_h5ad(folder / "s2.h5ad")
    third = Corpus(folder, index=index)
    assert read == ["s2"] and third.sizes[2] == 50
    next(index.glob("s1-*.npz")).write_bytes(b"damaged")
    Corpus(folder, index=index)
    assert read == ["s2", "s1"]
    Corpus(folder, index=index, spatial_key="spatial", neighbors_key="other")
    assert len(read) == 6  # other keys, other index


def test_zarr_csc_dense_and_other_types_read_alike(sections, tmp_path):
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
    """Write a section as Space Ranger does, but for the images."""
    (folder / "spatial").mkdir(parents=True)
    counts = sp.csc_matrix(section.X.T.astype(np.int32))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"], file.attrs["chemistry_description"] = [b"lib"], "Spatial 3' v1"
        matrix = file.create_group("matrix")
        matrix["data"], matrix["indices"], matrix["indptr"], matrix["shape"] = (
            counts.data,
            counts.indices,
            counts.indptr,
            counts.shape,
        )
        matrix["barcodes"] = section.obs_names.to_numpy().astype("S")
        features = matrix.create_group("features")
        for name in ("id", "name"):
            features[name] = section.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array([b"Gene Expression"] * section.n_vars)
        features["genome"] = np.array([b"GRCh38"] * section.n_vars)
    places = section.obsm["spatial"].astype(int)
    table = pd.DataFrame({"barcode": section.obs_names, "in_tissue": 1, "array_row": 0, "array_col": 0})
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = places[:, 1], places[:, 0]
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    table[::-1].to_csv(folder / "spatial" / name, index=False, header=header)


@pytest.mark.parametrize("header", [False, True])
def test_a_space_ranger_folder_is_a_section(sections, tmp_path, header):
    space_ranger(tmp_path / "ranger", sections[0], header)
    sections[0].write_h5ad(tmp_path / "same.h5ad")
    corpus = Corpus(tmp_path)
    assert list(corpus.report["status"]) == ["used", "used"], list(corpus.report["reason"])
    normalization = normalization_of(corpus.registry, "size")
    ranger, same = (corpus.open(number, normalization) for number in range(2))
    rows = np.arange(same.n_obs)
    np.testing.assert_array_equal(ranger.counts(rows).toarray(), same.counts(rows).toarray())
    assert (ranger.graph != same.graph).nnz == 0


def test_genes_by_their_share_of_sections(sections, tmp_path):
    for number, section in enumerate(sections):
        section[:, : 90 - 10 * number].copy().write_h5ad(tmp_path / f"s{number}.h5ad")
    total = sum((np.asarray(section.X[:, :60].sum(axis=0)).ravel() > 0).astype(int) for section in sections)
    assert len(Corpus(tmp_path, min_share=1)) == 4
    assert len(Corpus(tmp_path, min_share=1).genes) == int((total == 4).sum())
    half = Corpus(tmp_path)
    assert 60 < len(half.genes) <= 80 and list(half.genes) == sorted(half.genes)
    assert half.table["n_genes"].is_monotonic_decreasing
    asked = Corpus(tmp_path, genes=["GENE0010", "GENE0003"])
    assert list(asked.genes) == ["GENE0010", "GENE0003"]


def test_no_shared_gene_is_told(sections, tmp_path):
    for number, part in enumerate((slice(0, 40), slice(40, 90))):
        sections[0][:, part].copy().write_h5ad(tmp_path / f"s{number}.h5ad")
    with pytest.raises(ValueError, match="No gene has counts in 100% of the 2 sections"):
        Corpus(tmp_path, min_share=1)


def test_names_from_a_column_of_var(sections, tmp_path):
    for number, section in enumerate(sections[:2]):
        section = section.copy()
        section.var["symbol"] = section.var_names
        section.var_names = [f"ENSG{i:04d}.{number}" for i in range(section.n_vars)]
        section.write_h5ad(tmp_path / f"s{number}.h5ad")
    assert Corpus(tmp_path, gene_symbols="symbol").genes.isin(sections[0].var_names).all()


def test_names_that_stand_twice_are_told_apart(sections, tmp_path):
    section = sections[0].copy()
    names = section.var_names.to_list()
    section.var_names = [names[0], names[0], *names[2:]]
    section.write_h5ad(tmp_path / "s.h5ad")
    genes = Corpus(tmp_path / "s.h5ad", genes=names).genes
    assert len(genes) == 90


def test_one_section_gives_the_constants_of_setup_anndata(sections, tmp_path):
    section = sections[0].copy()
    section.write_h5ad(tmp_path / "s.h5ad")
    corpus = Corpus(tmp_path, genes=section.var_names)
    sagefm.SAGEFM.setup_anndata(section)
    model, same = sagefm.SAGEFM(section), sagefm.SAGEFM(registry=corpus.registry)
    assert same.target_depth == pytest.approx(model.target_depth)
    np.testing.assert_allclose(same.module.normalization.profile, model.module.normalization.profile, rtol=1e-5)
    mean, deviation = corpus.gene_moments(same.module.normalization, [0])
    expected = model._spots_of(None).gene_moments(np.arange(section.n_obs))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(deviation, expected[1], rtol=1e-4, atol=1e-4)


def test_the_profile_is_found_though_sections_lack_genes():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(40))
    known = rng.random((12, 40)) < 0.7
    depths = rng.integers(10**7, 10**8, 12)
    totals = np.stack([rng.multinomial(depth, truth) for depth in depths]) * known
    np.testing.assert_allclose(gene_profile(known, totals), truth, rtol=0.02, atol=1e-6)
    naive = totals.sum(axis=0) / totals.sum()
    assert np.abs(naive - truth).max() > 10 * np.abs(gene_profile(known, totals) - truth).max()


def test_moments_leave_out_sections_that_lack_the_gene(sections, tmp_path):
    sections[0].write_h5ad(tmp_path / "a.h5ad")
    sections[0][:, :50].copy().write_h5ad(tmp_path / "b.h5ad")
    corpus = Corpus(tmp_path, genes=sections[0].var_names)
    normalization = normalization_of(corpus.registry, "none")
    mean, _ = corpus.gene_moments(normalization, [0, 1])
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
        file.write_text("no section")
    return file


BAD = {
    "negative": "negative values",
    "no coordinates": "neither a neighbour graph nor coordinates",
    "mouse": "mouse symbols",
    "other genes": "at least 10% are needed",
    "truncated": "truncated",
    "text": "file signature not found",
}


@pytest.mark.parametrize(("how", "reason"), BAD.items())
def test_a_bad_section_is_skipped_with_a_line_or_stops(folder, sections, how, reason):
    spoil(sections[0], folder, how)
    corpus = Corpus(folder)
    line = corpus.report.set_index("sample").loc["bad"]
    assert len(corpus) == 4 and line["status"] == "skipped" and reason in line["reason"]
    with pytest.raises(ValueError, match=r"bad\.h5ad cannot be used"):
        Corpus(folder, on_error="raise")


def test_a_missing_file_and_a_missing_layer_are_told(folder):
    corpus = Corpus([folder / "s0.h5ad", folder / "none.h5ad"])
    assert "none.h5ad is not there" in corpus.report["reason"][1]
    with pytest.raises(ValueError, match="None of the 4 sections can be used; the first: .*layers/raw"):
        Corpus(folder, layer="raw")


def test_empty_spots_are_left_out_and_samples_kept_apart(tmp_path):
    tissue = sagefm.datasets.simulated_tissue(9, 9, n_genes=90, n_interactions=2, n_sections=2)
    tissue.X[3] = 0
    tissue.write_h5ad(tmp_path / "two.h5ad")
    corpus = Corpus(tmp_path, sample_key="sample")
    assert corpus.n_obs == tissue.n_obs - 1
    samples = np.delete(tissue.obs["sample"].astype(str).to_numpy(), 3)
    edges = corpus._records[0].graph.tocoo()
    assert (samples[edges.row] == samples[edges.col]).all()


def test_a_graph_of_the_file_is_kept(sections, tmp_path):
    section = sections[0].copy()
    graph = sp.csr_matrix((np.ones(section.n_obs), (np.arange(section.n_obs), np.roll(np.arange(section.n_obs), 1))))
    section.obsp["spatial_connectivities"] = graph
    section.write_h5ad(tmp_path / "s.h5ad")
    record = record_of(tmp_path / "s.h5ad", SetupKeys(), None)
    assert (record.graph != graph).nnz == 0 and record.graph_kind == "as in the file"
    assert replace(record, path=record.path).n_spots == section.n_obs


def test_of_real_sections_the_mouse_is_refused(real_section, tmp_path):
    names = ["her2st_andersson2021__A1", "her2st_andersson2021__B1", "mouse_mob_stahl2016__rep12"]
    for name in names:
        real_section(name).write_h5ad(tmp_path / f"{name}.h5ad")
    corpus = Corpus(tmp_path)
    assert list(corpus.table["sample"]) == names[:2] and len(corpus.genes) > 10_000
    assert "orthologues" in corpus.report["reason"][2]


def test_several_processes_index_alike(folder):
    assert Corpus(folder, n_jobs=2).table.equals(Corpus(folder).table)


def test_genes_that_stand_twice_are_refused(folder, sections):
    genes = sections[0].var_names
    with pytest.raises(ValueError, match="1 of the given genes stand more than once, for example 'GENE0001'"):
        Corpus(folder, genes=genes.insert(3, "GENE0001"))


def test_a_column_of_samples_must_be_there_and_whole(tmp_path, sections):
    gaps = sections[0].copy()
    gaps.obs["slide"] = ["a"] * 5 + [None] * (gaps.n_obs - 5)
    gaps.write_h5ad(tmp_path / "s0.h5ad")
    with pytest.raises(ValueError, match=r"sample_key='none' is not a column of obs; there are .*'slide'"):
        Corpus(tmp_path, sample_key="none")
    with pytest.raises(ValueError, match=r"obs\['slide'\] is missing for"):
        Corpus(tmp_path, sample_key="slide")


def test_a_space_ranger_folder_has_no_layers(tmp_path, sections):
    space_ranger(tmp_path / "ranger", sections[0], header=True)
    with pytest.raises(ValueError, match="has no layers; leave `layer` out"):
        Corpus(tmp_path, layer="counts")


def test_a_damaged_index_is_made_anew(folder, tmp_path):
    index = tmp_path / "index"
    table = Corpus(folder, index=index).table
    for file in index.iterdir():
        whole, section = file.read_bytes(), folder / f"{file.name.partition('-')[0]}.h5ad"
        directory = whole.index(
            b"PK\x01\x02"
        )  # of the archive: its every byte can stop the reading in a way of its own
        for place in [*range(0, directory, 97), *range(directory, len(whole))]:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
            _load(file, section, *stamp_of(section))  # gives a record or nothing, and never raises
    assert Corpus(folder, index=index).table.equals(table)
