"""Output of the commands: lines, tables, figures, and which messages of the packages underneath are shown."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich import box
from rich.console import Console
from rich.table import Column, Table

from sagefm._logging import logger


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line."""
    # Not wrapped, so that paths can be copied and lines found with grep.
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def heading(console: Console, text: str) -> None:
    """Print a heading."""
    say(console, f"\n{text}", style="bold")


def print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table below its title; floats have three digits."""
    heading(console, title)
    table = Table(*(Column(name, no_wrap=True) for name in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)


def save_figure(ax: Axes, path: Path) -> None:
    """Write the figure of these axes and close it."""
    plt.sca(ax)
    plt.savefig(path, dpi=150, bbox_inches="tight")
    plt.close()


@contextmanager
def quiet(module: str = "") -> Iterator[None]:
    """Hide the messages of Lightning and scvi-tools, and the warnings of `module`, by default of all."""
    others = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi")]
    levels = [other.level for other in others]
    for other in others:
        other.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for other, level in zip(others, levels, strict=True):
            other.setLevel(level)


@contextmanager
def messages(console: Console) -> Iterator[None]:
    """Print the log messages and warnings of sagefm on the console."""
    logger.handlers, usual = [logging.StreamHandler(console.file)], logger.handlers
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module="sagefm")
            warnings.showwarning = lambda message, *_, **__: say(console, f"Warning: {message}", style="yellow")
            yield
    finally:
        logger.handlers = usual
