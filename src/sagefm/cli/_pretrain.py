"""`sagefm pretrain`: index, train, resume, save the weights and report."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import scvi
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from scvi import REGISTRY_KEYS

from sagefm import pl
from sagefm.cli._output import print_table, quiet, save_figure, say
from sagefm.model import SAGEFM, TOP
from sagefm.pretraining import Corpus, CorpusDataModule, ResumePoint, corpus_recovery

CHECKPOINT = "last.ckpt"
_ON_CARD = ("sample", "patient", "licence", "license", "source", "n_spots", "n_genes", "sha256")


def run(
    sections: Path | str,
    out: Path,
    *,
    corpus_options: dict[str, Any],
    data_options: dict[str, Any],
    model_options: dict[str, Any],
    train_options: dict[str, Any],
    checkpoint_every: int,
    resume: bool,
    seed: int,
    dtype: Literal["float32", "float16"],
    console: Console,
) -> None:
    """Train on a corpus and write everything to the folder `out`."""
    out = out.expanduser()
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint} exists: continue with `--resume`, or write to another folder.")
    out.mkdir(parents=True, exist_ok=True)
    with quiet("lightning"):
        corpus = Corpus(sections, index=out / "index", **corpus_options)
        say(console, repr(corpus))
        corpus.report.to_csv(out / "sections.csv", index=False)
        scvi.settings.seed = seed
        model = SAGEFM(registry=corpus.registry, **model_options)
        data = CorpusDataModule(corpus, seed=seed, **data_options)
        logger = CSVLogger(out, name="log")
        model.train(
            datamodule=data,
            logger=logger,
            check_val_every_n_epoch=1,  # also on several devices, where scvi-tools' default has no early stopping
            callbacks=[ResumePoint(checkpoint, checkpoint_every), ThroughputMonitor(_n_spots, window_size=20)],
            ckpt_path=checkpoint if checkpoint.exists() else None,
            **train_options,
        )
        if model.trainer.is_global_zero:
            say(console, _speed(Path(logger.log_dir) / "metrics.csv"))
            metrics = _scored(model, data, out, seed, console)
            command = shlex.join(["sagefm", *sys.argv[1:]])
            card = {"sections": _trained_on(data), "metrics": metrics, "command": command, "seed": seed}
            model.save_pretrained(out / "weights", overwrite=True, dtype=dtype, card=card)
            for file in sorted(out.iterdir()):
                say(console, f"wrote {file}")


def _n_spots(batch: dict[str, Any]) -> int:
    return len(batch[REGISTRY_KEYS.X_KEY])


def _speed(log: Path) -> str:
    """Return a line with the training speed of each device."""
    table = pd.read_csv(log) if log.exists() else pd.DataFrame()
    if not {"train/samples", "train/time"} <= set(table):
        return "The run was too short to measure its speed."
    last = table[["train/samples", "train/time"]].dropna().iloc[-1]
    return f"{last['train/samples'] / last['train/time']:,.0f} spots per second on each device"


def _scored(model: SAGEFM, data: CorpusDataModule, out: Path, seed: int, console: Console) -> dict[str, Any]:
    """Score masked genes on the test sections, or else on the validation sections; write tables and a figure."""
    name = "test" if len(data.test_sections) else "validation"
    sections = getattr(data, f"{name}_sections")
    if not len(sections):
        return {}
    genes, by_section = corpus_recovery(model, data.corpus, sections, seed=seed)
    genes.to_csv(out / "recovery.csv")
    by_section.to_csv(out / "recovery_by_section.csv", index=False)
    save_figure(pl.recovery(genes), out / "recovery.png")
    title = f"Masked genes of {len(sections)} {name} sections: mean r of the {TOP} most expressed"
    columns = ["section", "spots", "SAGEFM", "mean of the neighbours"]
    totals = pd.DataFrame([{"sample": "together", "n_spots": by_section["n_spots"].sum(), **genes.attrs}])
    rows = pd.concat([by_section, totals])[["sample", "n_spots", f"top{TOP}_r", f"top{TOP}_r_neighbors"]]
    print_table(console, title, columns, rows.itertuples(index=False))
    return {"recovery": {"sections": name, "n_sections": len(sections), **genes.attrs}}


def _trained_on(data: CorpusDataModule) -> list[dict[str, Any]]:
    """Return the entries of the card on each training section."""
    columns = [column for column in _ON_CARD if column in data.corpus.table]
    return json.loads(data.corpus.table[columns].iloc[data.train_sections].to_json(orient="records"))
