"""The options of the command line. Each command imports what it needs when it runs, so that `--help` is quick."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sagefm import __version__
from sagefm._errors import DivergedError
from sagefm._quiet import quiet

app = typer.Typer(
    name="sagefm",
    help="SAGE-FM, a light foundation model for spatial transcriptomics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Layer = Annotated[str | None, typer.Option(help="Layer of the raw counts.", show_default="X")]
SampleKey = Annotated[str | None, typer.Option(help="Column of obs with the section of each spot.")]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the coordinates.")]
GeneSymbols = Annotated[str | None, typer.Option(help="Column of var with the gene names.", show_default="var_names")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder to write to.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]


@contextmanager
def _session() -> Iterator[Console]:
    """Give a console; an error in the input ends with its message and exit code 1, without a traceback."""
    console, progress = Console(), Console(stderr=True)
    with progress.status("Loading torch and scvi-tools"), quiet():
        import sagefm.model  # noqa: F401  # the slow imports of all commands
    try:
        yield console
    except (DivergedError, ImportError, KeyError, OSError, ValueError) as error:
        # The text of a KeyError is the repr of its argument; the argument is the message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        progress.print(f"Error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
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
    out: Out = Path("sagefm_demo"),
    sample_key: SampleKey = None,
    layer: Layer = None,
    n_domains: Annotated[
        int | None, typer.Option(min=2, help="Number of domains.", show_default="as in obs['annotation'], else 7")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the spots.", show_default="by the number of spots")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train on one file and show the results: recovered genes and spatial domains."""
    with _session() as console:
        from sagefm.cli import _demo

        keys = {"layer": layer, "sample_key": sample_key}
        _demo.run(section, out, keys, n_domains=n_domains, max_epochs=max_epochs, seed=seed, console=console)


@app.command()
def pretrain(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="Sections: a folder, a pattern in quotes, or a CSV table with a column `path` and optional columns "
            "`sample`, `patient`, `licence`, `split`. Each is an .h5ad, a .zarr or a Space Ranger folder.",
        ),
    ],
    out: Out,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in OUT.")] = False,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the corpus.", show_default="by its size")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Spots in a batch, on each device.")] = 128,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches in an optimiser step.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read sections, for each device.")] = 2,
    buffer_size: Annotated[int, typer.Option(min=1, help="Sections over which spots are shuffled.")] = 4,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Shards to distribute sections over.", show_default="devices times workers"),
    ] = None,
    min_share: Annotated[float, typer.Option(help="Use genes found in at least this share of the sections.")] = 0.5,
    validation_size: Annotated[float, typer.Option(help="Share of the spots to validate on, in whole sections.")] = 0.1,
    test_size: Annotated[float, typer.Option(help="Share of the spots to hold out, in whole sections.")] = 0.0,
    group_key: Annotated[str | None, typer.Option(help="Column of the table to keep together, e.g. patient.")] = None,
    split_key: Annotated[str | None, typer.Option(help="Column of the table with train, validation, test.")] = None,
    on_error: Annotated[str, typer.Option(help="What to do with a section with an error: skip or raise.")] = "skip",
    layer: Layer = None,
    sample_key: SampleKey = None,
    spatial_key: SpatialKey = "spatial",
    gene_symbols: GeneSymbols = None,
    model: Annotated[str, typer.Option(help="Arguments of SAGEFM as JSON, e.g. '{\"n_hidden\": 512}'.")] = "{}",
    plan: Annotated[str, typer.Option(help="Arguments of the training plan as JSON, e.g. '{\"lr\": 0.001}'.")] = "{}",
    accelerator: Annotated[str, typer.Option(help="As in Lightning: auto, cpu, gpu.")] = "auto",
    devices: Annotated[str, typer.Option(help="As in Lightning: their number, or which ones.")] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="As in Lightning: auto, ddp.")] = "auto",
    precision: Annotated[str, typer.Option(help="As in Lightning: 32-true, bf16-mixed.")] = "32-true",
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 200,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs to wait for a lower validation loss.", show_default="by the corpus"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the matrices of the weights as float16.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that index the sections.")] = 1,
    seed: Seed = 0,
) -> None:
    """Pretrain on a corpus of sections, of any size, and save the weights with a report."""
    keys = {"layer": layer, "sample_key": sample_key, "spatial_key": spatial_key, "gene_symbols": gene_symbols}
    loading = {"batch_size": batch_size, "buffer_size": buffer_size, "n_shards": shards, "num_workers": workers}
    split = {"validation_size": validation_size, "test_size": test_size, "group_key": group_key, "split_key": split_key}
    n_devices = int(devices) if devices.isdigit() else devices
    hardware = {"accelerator": accelerator, "devices": n_devices, "num_nodes": nodes, "strategy": strategy}
    with _session() as console:
        from sagefm.cli import _pretrain

        _pretrain.run(
            corpus,
            out,
            corpus_options={**keys, "min_share": min_share, "on_error": on_error, "n_jobs": jobs},
            data_options={**loading, **split},
            model_options=_from_json("--model", model),
            train_options={
                **hardware,
                "precision": precision,
                "max_epochs": max_epochs,
                "accumulate_grad_batches": accumulate,
                "early_stopping_patience": patience,
                "plan_kwargs": _from_json("--plan", plan),
            },
            checkpoint_every=checkpoint_every,
            resume=resume,
            seed=seed,
            dtype="float16" if half else "float32",
            console=console,
        )


def _from_json(option: str, text: str) -> dict:
    """Read the arguments that an option gives as JSON."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{option} must be a JSON object, as in '{{\"n_hidden\": 512}}'; found {text!r}.")
    return found


@app.command()
def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of weights, name of packaged ones, or owner/name on the Hub.")
    ],
    sections: Annotated[
        list[Path], typer.Argument(metavar="SECTION...", help="Each is an .h5ad, a .zarr or a Space Ranger folder.")
    ],
    out: Out,
    key_added: Annotated[str, typer.Option(help="Key in obsm of the embedding.")] = "X_sagefm",
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, e.g. tcp://host:8786.")] = None,
    layer: Layer = None,
    sample_key: SampleKey = None,
    spatial_key: SpatialKey = "spatial",
    gene_symbols: GeneSymbols = None,
) -> None:
    """Embed sections with trained weights; finished sections are skipped, and failures do not stop the others."""
    keys = {"layer": layer, "sample_key": sample_key, "spatial_key": spatial_key, "gene_symbols": gene_symbols}
    with _session() as console:
        from sagefm.cli import _embed

        n_failed = _embed.run(model, sections, out, keys, key_added, dask, console)
        if n_failed:
            console.print(f"{n_failed} of {len(sections)} sections failed.", style="red")
            raise typer.Exit(1)
