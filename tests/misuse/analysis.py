"""Rows about perturbation, tools and pre-training."""

import warnings

import anndata as ad
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from misuse.table import SAME, Gives, Raises, Row, Warns

import sagefm


def perturb(w, sources=("LIG1",), targets=("TGT1",), **kwargs) -> pd.DataFrame:
    sources, targets = (None if names is None else list(names) for names in (sources, targets))
    return w.model.perturb(sources, targets, adata=w.section(), **{"n_controls": 0, **kwargs})


def embedded(w, **columns):
    section = w.section()
    w.model.get_latent_representation(section)
    return section[:, :].copy() if not columns else _with(section, columns)


def _with(section, columns):
    for name, values in columns.items():
        section.obs[name] = values
    return section


def _without(w, gene: str):
    section = w.section()
    return section[:, section.var_names != gene].copy()


def all_missing(w):
    section = embedded(w)
    section.obsm["X_sagefm"][:] = np.nan
    return section


def some_missing(w) -> bool:
    section = embedded(w)
    section.obsm["X_sagefm"][:5] = np.nan
    sagefm.tl.domains(section, 2, smooth=0)
    return section.obs["domain"].isna().sum() == 5 and section.obs["domain"].notna().sum() == 59


def domains_without_expression(w) -> bool:
    section = embedded(w)
    section.X = None
    sagefm.tl.domains(section, 2)
    return section.obs["domain"].nunique() == 2


def nullable_representation(w) -> bool:
    section = embedded(w)
    section.obsm["X_sagefm"] = pd.DataFrame(section.obsm["X_sagefm"], section.obs_names).astype("Float64")
    section.obsm["X_sagefm"].iloc[0, 0] = pd.NA
    sagefm.tl.domains(section, 2, smooth=0)
    return section.obs["domain"].isna().tolist() == [True] + [False] * 63


def _completed(w):
    section = embedded(w, half=["a", "b"] * 32)
    sagefm.tl.annotate(section, "half")
    return section


def n_drawn(section) -> int:
    axes = sagefm.pl.domains(section, "annotation")
    plt.close(axes[0, 0].figure)
    return len(axes[0, 0].collections[0].get_paths())


def map_without_coordinates(w) -> bool:
    section = w.section()
    section.obsm["spatial"] = section.obsm["spatial"].astype(float)
    section.obsm["spatial"][:5] = np.nan
    return n_drawn(section) == 59


def map_of_sparse_coordinates(w) -> bool:
    section = w.section()
    section.obsm["spatial"] = sp.csr_matrix(section.obsm["spatial"])
    return n_drawn(section) == 64


def written(w, section) -> bool:
    folder = w.folder()
    section.write_h5ad(folder / "a.h5ad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2")
        section.write_zarr(folder / "a.zarr")
    return ad.read_zarr(folder / "a.zarr").n_obs == ad.read_h5ad(folder / "a.h5ad").n_obs == section.n_obs


def annotated(w, names: list, unlabelled=None) -> sagefm.tl.AnnotationReport:
    section = embedded(w, kind=pd.Series([unlabelled, *names * 31, unlabelled], w.section().obs_names, dtype=object))
    report = sagefm.tl.annotate(section, "kind")
    del section.obs["kind"]
    assert written(w, section) and set(report.per_class.index) == set(map(str, names))
    return report


def query_of_other_weights(w):
    query = embedded(w)
    query.obsm["X_sagefm"] = query.obsm["X_sagefm"][:, :3]
    return sagefm.tl.map_query(query, embedded(w), "annotation")


def query_with_labels(w) -> bool:
    queries = embedded(w), embedded(w)
    queries[0].obs["annotation"] = "other"
    for query in queries:
        sagefm.tl.map_query(query, embedded(w), "annotation", threshold=0)
    first, second = (query.obs["annotation_predicted"].astype(str) for query in queries)
    return first.equals(second) and "other" not in set(first)


PAIRS = pd.DataFrame({"ligand": ["LIG1", "LIG1"], "receptor": ["TGT1", "GENE0001"]})


def screen(w, pairs: pd.DataFrame, section=None, **kwargs) -> pd.DataFrame:
    section = w.section() if section is None else section
    return sagefm.tl.ligand_receptor_screen(w.model, pairs, adata=section, n_controls=0, **kwargs)


def screen_of_anything(w) -> bool:
    columns = {"none": [None, "a"], "lists": [["a"], []], "mixed": ["a", 1], 7: [1, 2], "a/b": [1.5, 2]}
    more = pd.DataFrame(columns).assign(text=pd.array(["a", pd.NA], dtype="string"))
    section = w.section()
    table = screen(w, PAIRS.join(more), section)
    return table[list(more)].equals(more) and written(w, section)


def screen_without_counts(w) -> bool:
    section = w.section()
    section.X = section.X.toarray() * (section.var_names != "TGT1")
    table = screen(w, PAIRS, section)
    return table["scaled_effect"].isna().tolist() == [True, False] and table["reason"][0] == "no counts of TGT1"


def corpus(w, **kwargs):
    folder = w.folder()
    w.section().write_h5ad(folder / "good.h5ad")
    return sagefm.pretraining.Corpus(folder, **kwargs)


def with_damaged(w, **kwargs):
    folder = w.folder()
    w.section().write_h5ad(folder / "good.h5ad")
    (folder / "bad.h5ad").write_bytes((folder / "good.h5ad").read_bytes()[:500])
    return sagefm.pretraining.Corpus(folder, **kwargs)


def skips_damaged(w) -> bool:
    found = with_damaged(w)
    return len(found) == 1 and (found.report["status"] == "skipped").sum() == 1


def split(w, names: list[str | None]) -> sagefm.pretraining.CorpusDataModule:
    """A corpus of as many sections, with these names in the column `split` of its table."""
    folder, paths = w.folder(), [f"{number}.h5ad" for number in range(len(names))]
    for path in paths:
        w.section().write_h5ad(folder / path)
    pd.DataFrame({"path": paths, "split": names}).to_csv(folder / "table.csv")
    sections = sagefm.pretraining.Corpus(folder / "table.csv")
    return sagefm.pretraining.CorpusDataModule(sections, split_key="split")


def other_genes(w) -> None:
    datamodule = sagefm.pretraining.CorpusDataModule(corpus(w, genes=list(w.section().var_names[:30])))
    section = w.section()
    sagefm.SAGEFM.setup_anndata(section)
    sagefm.SAGEFM(section).train(datamodule=datamodule, max_epochs=1)


GROUPS = ["a"] * 32 + ["b"] * 32

ROWS = [
    *[
        Row(f"a key with a slash for the results of `{name}`", use, Raises(ValueError, "a/b.* contains '/'"))
        for name, use in {
            "get_latent_representation": lambda w: w.model.get_latent_representation(w.section(), key_added="a/b"),
            "impute_masked": lambda w: w.model.impute_masked(w.section(), genes=["LIG1"], layer_added="a/b"),
            "get_normalized_expression": lambda w: w.model.get_normalized_expression(layer_added="a/b"),
            "tl.domains": lambda w: sagefm.tl.domains(embedded(w), 2, key_added="a/b"),
            "tl.spatial_filter": lambda w: sagefm.tl.spatial_filter(embedded(w), key_added="a/b"),
            "tl.annotate": lambda w: sagefm.tl.annotate(embedded(w), "annotation", key_added="a/b"),
            "tl.map_query": lambda w: sagefm.tl.map_query(embedded(w), embedded(w), "annotation", key_added="a/b"),
        }.items()
    ],
    Row(
        "an unknown source",
        lambda w: perturb(w, ["LIG7"]),
        Raises(KeyError, r"1 of .* requested genes is not in the model: 'LIG7' \(did you mean LIG1"),
    ),
    Row(
        "a source that is its target",
        lambda w: perturb(w, ["LIG1"], ["LIG1"]),
        Raises(ValueError, "the source is, or shares a gene with, the target"),
    ),
    Row(
        "targets without sources",
        lambda w: perturb(w, None),
        Raises(ValueError, "Pass either `sources` and `targets`, or `pairs`"),
    ),
    Row(
        "`pairs` and `sources`",
        lambda w: perturb(w, pairs=pd.DataFrame({"source": ["LIG1"], "target": ["TGT1"]})),
        Raises(ValueError, "not both"),
    ),
    Row(
        "`pairs` without a column",
        lambda w: perturb(w, None, None, pairs=pd.DataFrame({"source": ["LIG1"]})),
        Raises(KeyError, "`pairs` has no column 'target'"),
    ),
    Row("no sources", lambda w: perturb(w, []), Raises(ValueError, "`sources` is empty")),
    Row("one level", lambda w: perturb(w, levels=1), Raises(ValueError, "at least 2 levels are needed")),
    Row("a level of NaN", lambda w: perturb(w, levels=[0, np.nan]), Raises(ValueError, "levels must be finite")),
    Row(
        "a negative level",
        lambda w: perturb(w, levels=[-1, 1]),
        Raises(ValueError, "levels must be finite and between 0"),
    ),
    Row(
        "a level above all measured values",
        lambda w: len(perturb(w, levels=[0, 99])) == 1,
        Warns("Level 99 is above the highest measured value of 1 of 1 sources.*extrapolates", "the result is returned"),
    ),
    Row(
        "a fold change beyond all that was measured",
        lambda w: len(perturb(w, levels={"fold_change": [1, 1000]})) == 1,
        Warns(
            "Fold change 1000 is above the highest measured value of 1 of 1 sources.*extrapolates",
            "results all the same",
        ),
    ),
    Row(
        "a fold change of 1.5",
        lambda w: len(perturb(w, levels={"fold_change": [1, 1.5]})) == 1,
        Gives("results without a warning"),
    ),
    Row(
        "`where` unknown",
        lambda w: perturb(w, where="everywhere"),
        Raises(ValueError, "where='everywhere' is not known"),
    ),
    Row(
        "`n_controls` below 0",
        lambda w: perturb(w, n_controls=-1),
        Raises(ValueError, "n_controls=-1 must be a whole number, 0 or more"),
    ),
    Row(
        "`max_controls` that is not a whole number",
        lambda w: perturb(w, n_controls=2, max_controls=2.5),
        Raises(ValueError, "max_controls=2.5 must be a whole number, 0 or more"),
    ),
    Row(
        "more controls than there are genes",
        lambda w: np.isfinite(perturb(w, n_controls=5000)["p"]).all(),
        Gives("all genes that vary are used as controls"),
    ),
    Row(
        "a `groupby` that does not exist",
        lambda w: perturb(w, groupby="niche_"),
        Raises(KeyError, "groupby='niche_' is not a column of obs"),
    ),
    Row(
        "a `groupby` without a value",
        lambda w: w.model.perturb("LIG1", "TGT1", adata=_with(w.section(), {"niche_": np.nan}), groupby="niche_"),
        Raises(ValueError, r"obs\['niche_'\] is missing for all of the requested spots"),
    ),
    Row(
        "a dose response to a source missing from the panel",
        lambda w: w.model.get_dose_response("LIG1", "TGT1", adata=_without(w, "LIG1")),
        Raises(ValueError, "The section has no counts of 'LIG1', so it cannot be set there"),
    ),
    Row(
        "a net of pathways without targets",
        lambda w: w.model.get_pathway_response(pd.DataFrame({"source": ["LIG1"]}), adata=w.section()),
        Raises(KeyError, "`net` has no column 'target'"),
    ),
    Row(
        "a net with two weights for a target",
        lambda w: w.model.get_pathway_response(
            pd.DataFrame({"source": "LIG1", "target": ["TGT1", "TGT1"], "weight": [1, -1]}), adata=w.section()
        ),
        Raises(ValueError, "1 pairs of `net` have several weights, for example 'LIG1' and 'TGT1'"),
    ),
    Row(
        "a pathway whose regulator is not known",
        lambda w: w.model.get_pathway_response({"my set": list(w.model.genes[:30])}, adata=w.section()),
        Raises(ValueError, r"neither a gene of the model nor in `regulators`.*`regulators=\{source: gene\}`"),
    ),
    Row(
        "a net in which one source has no result",
        lambda w: (
            w.model.get_pathway_response(
                {"LIG1": list(w.model.genes[:30]), "my set": list(w.model.genes[:30])}, adata=w.section(), n_controls=5
            )["reason"].tolist()
            == ["", "neither a gene of the model nor in `regulators`"]
        ),
        Gives("the column `reason` says why"),
    ),
    Row(
        "influence by an unknown `method`",
        lambda w: w.model.get_gene_influence("TGT1", method="shap"),
        Raises(ValueError, "method='shap' is not known"),
    ),
    Row(
        "influence with no steps",
        lambda w: w.model.get_gene_influence("TGT1", n_steps=0),
        Raises(ValueError, "n_steps=0 must be 1 or more"),
    ),
    Row(
        "domains before the embedding",
        lambda w: sagefm.tl.domains(w.section(), 2),
        Raises(KeyError, "use_rep='X_sagefm' is not in obsm.*get_latent_representation"),
    ),
    Row(
        "domains of an embedding of NaN",
        lambda w: sagefm.tl.domains(all_missing(w), 2),
        Raises(ValueError, r"Every row of obsm\['X_sagefm'\] has NaN"),
    ),
    Row("domains where five spots are not embedded", some_missing, Gives("these five have no domain")),
    Row(
        "more domains than spots",
        lambda w: sagefm.tl.domains(embedded(w), 100),
        Raises(ValueError, "n_domains=100 must lie between 1 and"),
    ),
    Row(
        "domains by an unknown `method`",
        lambda w: sagefm.tl.domains(embedded(w), 2, method="dbscan"),
        Raises(ValueError, "method='dbscan' is not known"),
    ),
    Row(
        "a representation in a `DataFrame` of `Float64` with `pd.NA`",
        nullable_representation,
        Gives("a spot with a missing value has no domain"),
    ),
    Row(
        "tools and a MuData",
        lambda w: sagefm.tl.domains(mudata.MuData({"rna": embedded(w)}), 3),
        Raises(ValueError, r"a MuData with the modalities .*'rna'.*. Pass one modality, for example `mdata\['rna'\]`"),
    ),
    Row(
        "`n_domains` of 3.0",
        lambda w: sagefm.tl.domains(section := embedded(w), 3.0) or section.obs["domain"].nunique() == 3,
        Gives("three domains"),
    ),
    Row(
        "`n_domains` of 2.5",
        lambda w: sagefm.tl.domains(embedded(w), 2.5),
        Raises(ValueError, "n_domains=2.5 must be a whole number, or several"),
    ),
    Row(
        "`smooth` of another word",
        lambda w: sagefm.tl.domains(embedded(w), 2, smooth="none"),
        Raises(ValueError, "smooth='none' must be \"auto\" or a number of rounds"),
    ),
    Row(
        "domains with a `layer` that does not exist",
        lambda w: sagefm.tl.domains(embedded(w), 2, layer="counts"),
        Raises(KeyError, "layer='counts' is not in layers; found"),
    ),
    Row(
        "domains without expression",
        domains_without_expression,
        Gives("domains of the representation alone"),
    ),
    Row(
        "a filter before the embedding",
        lambda w: sagefm.tl.spatial_filter(w.section()),
        Raises(KeyError, "use_rep='X_sagefm' is not in obsm.*get_latent_representation"),
    ),
    Row(
        "a filter of one ring",
        lambda w: sagefm.tl.spatial_filter(embedded(w), n_rings=1),
        Raises(ValueError, "n_rings=1 must be 2 or more"),
    ),
    Row(
        "colours of a column that does not exist",
        lambda w: sagefm.tl.match_colors(embedded(w), "domain", "annotation"),
        Raises(KeyError, "key='domain' is not a column of obs"),
    ),
    Row(
        "a map of spots some of which have coordinates of NaN",
        map_without_coordinates,
        Gives("these spots are not drawn"),
    ),
    Row("a map of spots with sparse coordinates", map_of_sparse_coordinates, SAME),
    Row(
        "recovered genes on the map of another section",
        lambda w: sagefm.pl.recovered(w.section()[:0], w.model.impute_masked(w.section(), genes="LIG1")),
        Raises(KeyError, "No spot of `predicted` is in `adata`; pass the AnnData that it was computed for"),
    ),
    Row(
        "a map of all recovered genes of a section",
        lambda w: sagefm.pl.recovered(w.section(), w.model.get_normalized_expression(w.section())),
        Raises(ValueError, r"There are predictions of 60 genes; choose some, as in `genes=\['CD3E'\]`"),
    ),
    Row(
        "a confusion matrix of labels that `annotate` completed",
        lambda w: sagefm.pl.confusion(_completed(w), "half"),
        Raises(ValueError, "pass the report that it returns: it has cross-validated predictions"),
    ),
    Row(
        "classes named `B/T cells`, `.` or with numbers, lists and other alphabets",
        lambda w: all(annotated(w, names) for names in (["B/T cells", "肿瘤"], [".", "_index"], [1, "b"], [["a"], []])),
        Gives("the AnnData can be written to h5ad and zarr; the report has the names as text"),
    ),
    Row(
        "an empty text as the label of unlabelled spots",
        lambda w: len(annotated(w, ["a", "b"], unlabelled="").predictions) == 62,
        Gives("the spots are unlabelled, and are predicted"),
    ),
    Row(
        "annotation with one class",
        lambda w: sagefm.tl.annotate(embedded(w, kind="a"), "kind"),
        Raises(ValueError, "has 1 class.*at least two"),
    ),
    Row(
        "annotation of a column that does not exist",
        lambda w: sagefm.tl.annotate(embedded(w), "kind"),
        Raises(KeyError, "labels_key='kind' is not a column of obs"),
    ),
    Row(
        "annotation with all labels in one group",
        lambda w: sagefm.tl.annotate(embedded(w, kind=GROUPS, slide="S1"), "kind", group_key="slide"),
        Raises(ValueError, "All labelled spots belong to one group"),
    ),
    Row(
        "a query that was not embedded",
        lambda w: sagefm.tl.map_query(w.section(), embedded(w), "annotation"),
        Raises(KeyError, "use_rep='X_sagefm' is not in query.obsm"),
    ),
    Row(
        "a reference that was not embedded",
        lambda w: sagefm.tl.map_query(embedded(w), w.section(), "annotation"),
        Raises(KeyError, "use_rep='X_sagefm' is not in reference.obsm"),
    ),
    Row(
        "a query and a reference whose embeddings have different numbers of dimensions",
        query_of_other_weights,
        Raises(ValueError, "has 3 dimensions in `query` and .* in `reference`, so they cannot be of the same weights"),
    ),
    Row(
        "a query with labels of its own",
        query_with_labels,
        Gives("they are not used, and predictions are as without them"),
    ),
    Row(
        "a section embedding by `statistics` unknown",
        lambda w: sagefm.tl.section_embedding(embedded(w, slide="S1"), sample_key="slide", statistics=["max"]),
        Raises(ValueError, "must be one or both of 'mean' and 'std'"),
    ),
    Row(
        '`statistics="mean"` as plain text',
        lambda w: (
            sagefm.tl.section_embedding(embedded(w, slide="S1"), sample_key="slide", statistics="mean").shape == (1, 4)
        ),
        Gives('the same as `["mean"]`'),
    ),
    Row(
        "a screen of a table with None, lists, mixed types, `string` with NA, and names that are numbers or have a `/`",
        screen_of_anything,
        Gives("the table is whole; the AnnData can be written, with text in `uns`"),
    ),
    Row(
        "a screen of pairs whose ligand or receptor has no counts in the section",
        screen_without_counts,
        Gives("the effects are NaN; the log counts these pairs, and the column `reason` names the gene"),
    ),
    Row(
        "a screen of a table with several resources, `resource_name`",
        lambda w: len(screen(w, PAIRS.assign(resource=["a", "b"]), resource_name="b")) == 1,
        Gives("the pairs of this resource; without `resource_name` all pairs, and a hint in the log"),
    ),
    Row(
        "a screen by an unknown `resource_name`",
        lambda w: screen(w, PAIRS.assign(resource=["a", "b"]), resource_name="c"),
        Raises(ValueError, "resource_name='c' is not known; it is one of 'a', 'b'"),
    ),
    Row(
        "a screen of pairs with genes that are not in the model",
        lambda w: sagefm.tl.ligand_receptor_screen(w.model, pd.DataFrame({"ligand": ["X"], "receptor": ["Y"]})),
        Raises(ValueError, "None of the 1 pairs has all its genes in the model"),
    ),
    Row(
        "a screen of a table without a column of ligands",
        lambda w: sagefm.tl.ligand_receptor_screen(w.model, pd.DataFrame({"a": ["X"]})),
        Raises(KeyError, "needs columns 'ligand' and 'receptor'"),
    ),
    Row(
        "a corpus of an empty folder",
        lambda w: sagefm.pretraining.Corpus(w.folder()),
        Raises(FileNotFoundError, "No sections in .*: expected .h5ad, .zarr or Space Ranger folders"),
    ),
    Row("a corpus with a damaged section", skips_damaged, Gives("the others are used, the log and the report say why")),
    Row(
        "a corpus with a damaged section, `on_error='raise'`",
        lambda w: with_damaged(w, on_error="raise"),
        Raises(ValueError, "bad.h5ad cannot be used"),
    ),
    Row(
        "a corpus of other genes than the model's",
        other_genes,
        Raises(ValueError, "The corpus has 30 genes and the model 60"),
    ),
    Row(
        "a batch size of 0 in pre-training",
        lambda w: sagefm.pretraining.CorpusDataModule(corpus(w), batch_size=0),
        Raises(ValueError, "batch_size=0 must be at least 1"),
    ),
    Row(
        "held-out shares of more than 1",
        lambda w: sagefm.pretraining.CorpusDataModule(corpus(w), validation_size=0.7, test_size=0.5),
        Raises(ValueError, "expected at least 0 each, together below 1"),
    ),
    Row(
        "a split that leaves nothing to train on",
        lambda w: split(w, ["test", "validation"]),
        Raises(ValueError, "None of the 2 sections is left to train on"),
    ),
    Row(
        "a split with a missing value",
        lambda w: split(w, ["train", None]),
        Raises(ValueError, "1 of 2 sections have no 'split' in the table"),
    ),
    Row(
        "batches of a corpus without a trainer",
        lambda w: split(w, ["train"]).train_dataloader(),
        Raises(RuntimeError, r"has no trainer; pass it to `SAGEFM.train\(datamodule=...\)`"),
    ),
    Row(
        "a checkpoint every 0 steps",
        lambda w: sagefm.pretraining.ResumePoint(w.folder() / "last.ckpt", every_n_steps=0),
        Raises(ValueError, "every_n_steps=0 must be at least 1"),
    ),
]
