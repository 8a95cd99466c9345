"""The command line. What takes seconds to import is imported where a command needs it, so that `--help` is quick."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="sagefm",
    help="SAGE-FM, a light foundation model for spatial transcriptomics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """End with the message of what is wrong with the input, not with a traceback."""
    from rich.console import Console

    from sagefm._errors import DivergedError

    try:
        yield
    except (DivergedError, ImportError, KeyError, OSError, ValueError) as error:
        # The text of a KeyError is its argument's repr; the argument is the message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        Console(stderr=True).print(f"Error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _print_version(asked: bool) -> None:
    if asked:
        import sagefm

        typer.echo(sagefm.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """SAGE-FM, a light foundation model for spatial transcriptomics."""


@app.command()
def demo(
    section: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="SECTION.h5ad",
            help="Raw counts with coordinates in obsm['spatial'] or a squidpy graph; a simulated tissue by default.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory to write to.")] = Path("sagefm_demo"),
    sample_key: Annotated[str | None, typer.Option(help="Column of obs that tells sections apart.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the raw counts.", show_default="X")] = None,
    n_domains: Annotated[
        int | None, typer.Option(min=2, help="Number of domains.", show_default="as in obs['annotation'], else 7")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the spots.", show_default="by the number of spots")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Train on one file and show what comes out: recovered genes and spatial domains."""
    from rich.console import Console

    console = Console()
    with console.status("Loading torch, scvi-tools and squidpy"):
        from sagefm.cli import _demo
    with _errors_in_one_line():
        _demo.run(
            section,
            out,
            sample_key=sample_key,
            layer=layer,
            n_domains=n_domains,
            max_epochs=max_epochs,
            seed=seed,
            console=console,
        )


Layer = Annotated[str | None, typer.Option(help="Layer of the raw counts.", show_default="X")]
SampleKey = Annotated[str | None, typer.Option(help="Column of obs that tells sections in one file apart.")]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the coordinates.")]
GeneSymbols = Annotated[str | None, typer.Option(help="Column of var with the gene names.", show_default="var_names")]


@app.command()
def pretrain(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="Sections: a folder, a pattern in quotes, or a CSV table with a column `path` and, if known, "
            "`sample`, `patient`, `licence`, `split`. Each an .h5ad, a .zarr or a Space Ranger folder.",
        ),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the corpus.", show_default="by its size")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Spots in a batch of one device.")] = 128,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches in an optimiser step.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read sections, for each device.")] = 2,
    buffer_size: Annotated[int, typer.Option(min=1, help="Sections that spots are mixed over.")] = 4,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Parts the sections are dealt to.", show_default="devices times workers")
    ] = None,
    min_share: Annotated[float, typer.Option(help="Take genes that this share of the sections has.")] = 0.5,
    validation_size: Annotated[float, typer.Option(help="Share of the spots to validate on, in whole sections.")] = 0.1,
    test_size: Annotated[float, typer.Option(help="Share of the spots to hold out, in whole sections.")] = 0.0,
    group_key: Annotated[str | None, typer.Option(help="Column of the table to keep together, e.g. patient.")] = None,
    split_key: Annotated[str | None, typer.Option(help="Column of the table with train, validation, test.")] = None,
    on_error: Annotated[str, typer.Option(help="What to do with a bad section: skip or raise.")] = "skip",
    layer: Layer = None,
    sample_key: SampleKey = None,
    spatial_key: SpatialKey = "spatial",
    gene_symbols: GeneSymbols = None,
    model: Annotated[str, typer.Option(help="Arguments of SAGEFM as JSON, e.g. '{\"n_hidden\": 512}'.")] = "{}",
    plan: Annotated[str, typer.Option(help="Arguments of the training plan as JSON, e.g. '{\"lr\": 0.001}'.")] = "{}",
    accelerator: Annotated[str, typer.Option(help="As in Lightning: auto, cpu, gpu.")] = "auto",
    devices: Annotated[str, typer.Option(help="As in Lightning: how many, or which.")] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="As in Lightning: auto, ddp.")] = "auto",
    precision: Annotated[str, typer.Option(help="As in Lightning: 32-true, bf16-mixed.")] = "32-true",
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 200,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs to wait for the validation loss.", show_default="by the corpus")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the matrices of the weights as float16.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that index the sections.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Pretrain on a corpus of sections, of any size, and save the weights with a report."""
    from rich.console import Console

    console = Console()
    with console.status("Loading torch, scvi-tools and squidpy"):
        from sagefm.cli._pretrain import pretrain as run
    keys = {"layer": layer, "sample_key": sample_key, "spatial_key": spatial_key, "gene_symbols": gene_symbols}
    with _errors_in_one_line():
        run(
            corpus,
            out,
            corpus_options={"min_share": min_share, "on_error": on_error, "n_jobs": jobs, **keys},
            data_options={
                "batch_size": batch_size,
                "buffer_size": buffer_size,
                "n_shards": shards,
                "num_workers": workers,
                "validation_size": validation_size,
                "test_size": test_size,
                "group_key": group_key,
                "split_key": split_key,
            },
            model_options=_from_json("--model", model),
            train_options={
                "max_epochs": max_epochs,
                "accelerator": accelerator,
                "devices": int(devices) if devices.isdigit() else devices,
                "num_nodes": nodes,
                "strategy": strategy,
                "precision": precision,
                "accumulate_grad_batches": accumulate,
                "early_stopping_patience": patience,
                "plan_kwargs": _from_json("--plan", plan),
            },
            checkpoint_every=checkpoint_every,
            resume=resume,
            seed=seed,
            dtype="float16" if half else "float32",
            command=shlex.join(["sagefm", *sys.argv[1:]]),
            console=console,
        )


def _from_json(option: str, text: str) -> dict:
    """Read the arguments that an option gives as JSON."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{option} must be a JSON object, as in '{{\"n_hidden\": 512}}'; found {text!r}.")
    return found


@app.command()
def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of weights, name of packaged ones, or owner/name on the Hub.")
    ],
    sections: Annotated[
        list[Path], typer.Argument(metavar="SECTION...", help="Each an .h5ad, a .zarr or a Space Ranger folder.")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to.")],
    key_added: Annotated[str, typer.Option(help="Key in obsm of the embedding.")] = "X_sagefm",
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, e.g. tcp://host:8786.")] = None,
    layer: Layer = None,
    sample_key: SampleKey = None,
    spatial_key: SpatialKey = "spatial",
    gene_symbols: GeneSymbols = None,
) -> None:
    """Embed sections with trained weights; what is done is skipped, what fails is reported and the rest go on."""
    from rich.console import Console

    console = Console()
    with console.status("Loading torch, scvi-tools and squidpy"):
        from sagefm.cli._embed import embed_sections
        from sagefm.data import SetupKeys
    keys = SetupKeys(layer, sample_key, spatial_key, "spatial", gene_symbols)
    n_failed = 0
    with _errors_in_one_line():
        for section, status, detail in embed_sections(model, sections, out, keys, key_added, dask):
            n_failed += status == "failed"
            console.print(f"{status}: {section}: {detail}", highlight=False, soft_wrap=True, markup=False)
    if n_failed:
        console.print(f"{n_failed} of {len(sections)} sections failed.", style="red")
        raise typer.Exit(1)
