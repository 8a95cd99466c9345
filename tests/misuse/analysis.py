"""Rows about perturbation, tools and pre-training."""

import numpy as np
import pandas as pd
from misuse.table import Gives, Raises, Row, Warns

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
        "a section embedding by `statistics` unknown",
        lambda w: sagefm.tl.section_embedding(embedded(w, slide="S1"), sample_key="slide", statistics=["max"]),
        Raises(ValueError, "must be one or both of 'mean' and 'std'"),
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
