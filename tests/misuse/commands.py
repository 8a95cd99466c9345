"""Rows about `sagefm demo`."""

import numpy as np
from misuse.table import Gives, Raises, Row
from typer.testing import CliRunner

from sagefm.cli._app import app


def demo(w, section, *options: str) -> str:
    """Run the command on a section and return what it prints; raise its error."""
    folder = w.folder()
    section.write_h5ad(folder / "section.h5ad")
    arguments = [str(folder / "section.h5ad"), "--out", str(folder / "out"), "--max-epochs", "2", *options]
    result = CliRunner().invoke(app, ["demo", *arguments])
    if result.exit_code:
        raise ValueError(result.stderr)
    return result.output


def measured(w):
    section = w.section()
    section.obs["annotation"] = np.random.default_rng(0).normal(size=section.n_obs)
    return section


def labels_that_are_measurements(w) -> bool:
    output = demo(w, measured(w))
    return "Expected categories in obs['annotation']" in output and "ARI" not in output


def without_coordinates(w) -> bool:
    section = w.section()
    section.obsm.clear()
    return "No map of the domains" in demo(w, section)


ROWS = [
    Row(
        "measurements in `obs['annotation']`",
        labels_that_are_measurements,
        Gives("one line about it; domains are not compared with them"),
    ),
    Row(
        "measurements as `--sample-key`",
        lambda w: demo(w, measured(w), "--sample-key", "annotation"),
        Raises(ValueError, "to name the section of each spot; found 64 different values in 64 spots"),
    ),
    Row("a graph without coordinates", without_coordinates, Gives("no map, with one line about it; exit code 0")),
]
