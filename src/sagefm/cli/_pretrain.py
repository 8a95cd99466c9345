"""What `sagefm pretrain` does: index, train, resume, save the weights and report."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import pandas as pd
import scvi
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from scvi import REGISTRY_KEYS

from sagefm import pl
from sagefm.model import SAGEFM
from sagefm.pretraining._corpus import Corpus
from sagefm.pretraining._datamodule import CorpusDataModule
from sagefm.pretraining._recovery import corpus_recovery
from sagefm.pretraining._resume import ResumePoint

CHECKPOINT, WEIGHTS, SECTIONS = "last.ckpt", "weights", "sections.csv"
RECOVERY, RECOVERY_BY_SECTION, FIGURE = "recovery.csv", "recovery_by_section.csv", "recovery.png"
_ON_CARD = ("sample", "patient", "licence", "license", "source", "n_spots", "n_genes", "sha256")


def pretrain(
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
    command: str,
    console: Console,
) -> None:
    """Train on a corpus and write everything to the folder `out`."""
    out = out.expanduser()
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint} is there: go on with `--resume`, or write to another folder.")
    out.mkdir(parents=True, exist_ok=True)
    _quiet()
    corpus = Corpus(sections, index=out / "index", **corpus_options)
    console.print(repr(corpus), highlight=False)
    corpus.report.to_csv(out / SECTIONS, index=False)
    scvi.settings.seed = seed
    model = SAGEFM(registry=corpus.registry, **model_options)
    data = CorpusDataModule(corpus, seed=seed, **data_options)
    callbacks = [ResumePoint(checkpoint, checkpoint_every), ThroughputMonitor(_n_spots, window_size=20)]
    logger = CSVLogger(out, name="log")
    model.train(
        datamodule=data,
        logger=logger,
        check_val_every_n_epoch=1,  # several devices too, where scvi-tools stops early on none
        callbacks=callbacks,
        ckpt_path=checkpoint if checkpoint.exists() else None,
        **train_options,
    )
    if model.trainer.is_global_zero:
        console.print(_speed(Path(logger.log_dir) / "metrics.csv"), highlight=False)
        _finish(model, data, out, seed, dtype, command, console)


def _n_spots(batch: dict[str, Any]) -> int:
    return len(batch[REGISTRY_KEYS.X_KEY])


def _speed(log: Path) -> str:
    """Say how many spots a second each device has trained on."""
    log_table = pd.read_csv(log) if log.exists() else pd.DataFrame()
    if not {"train/samples", "train/time"} <= set(log_table):
        return "The run was too short to tell its speed."
    last = log_table[["train/samples", "train/time"]].dropna().iloc[-1]
    return f"{last['train/samples'] / last['train/time']:,.0f} spots a second on each device"


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def _finish(
    model: SAGEFM,
    data: CorpusDataModule,
    out: Path,
    seed: int,
    dtype: Literal["float32", "float16"],
    command: str,
    console: Console,
) -> None:
    """Score the held-out sections, save the weights with their card, and say what is where."""
    metrics: dict[str, Any] = {}
    held_out, name = (
        (data.test_sections, "test") if len(data.test_sections) else (data.validation_sections, "validation")
    )
    if len(held_out):
        genes, by_section = corpus_recovery(model, data.corpus, held_out, seed=seed)
        genes.to_csv(out / RECOVERY)
        by_section.to_csv(out / RECOVERY_BY_SECTION, index=False)
        figure, ax = plt.subplots()
        pl.recovery(genes, ax=ax)
        figure.savefig(out / FIGURE, dpi=150, bbox_inches="tight")
        plt.close(figure)
        metrics = {"recovery": {"sections": name, "n_sections": len(held_out), **genes.attrs}}
        console.print(_table(genes, by_section, name))
    card = {"sections": on_card(data), "metrics": metrics, "command": command, "seed": seed}
    model.save_pretrained(out / WEIGHTS, overwrite=True, dtype=dtype, card=card)
    for file in sorted(out.iterdir()):
        console.print(f"wrote {file}", highlight=False, soft_wrap=True)


def on_card(data: CorpusDataModule) -> list[dict[str, Any]]:
    """Return what the card tells of each section that was trained on."""
    columns = [column for column in _ON_CARD if column in data.corpus.table]
    return json.loads(data.corpus.table[columns].iloc[data.train_sections].to_json(orient="records"))


def _table(genes: pd.DataFrame, by_section: pd.DataFrame, name: str) -> Table:
    table = Table(title=f"Masked genes of {len(by_section)} {name} sections: mean r of the 500 most expressed")
    for heading in ("section", "spots", "SAGEFM", "mean of the neighbours"):
        table.add_column(heading, justify="left" if heading == "section" else "right")
    for _, row in by_section.iterrows():
        numbers = [f"{row['top500_r']:.3f}", f"{row['top500_r_neighbors']:.3f}"]
        table.add_row(str(row["sample"]), f"{row['n_spots']:,}", *numbers)
    totals = [f"{genes.attrs[key]:.3f}" for key in ("top500_r", "top500_r_neighbors")]
    table.add_row("together", f"{by_section['n_spots'].sum():,}", *totals, style="bold")
    return table
