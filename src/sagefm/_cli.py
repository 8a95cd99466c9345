"""The command line. What takes seconds to import is imported where a command needs it, so that `--help` is quick."""

from __future__ import annotations

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


def _print_version(asked: bool) -> None:
    if asked:
        import sagefm

        typer.echo(sagefm.__version__)
        raise typer.Exit


# With this callback `demo` stays a subcommand though it is the only one.
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
        from sagefm import _demo
    try:
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
    except (KeyError, OSError, ValueError) as error:
        # The text of a KeyError is its argument's repr; the argument is the message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        Console(stderr=True).print(f"Error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
