"""A folder, pattern, list or table of sections, as one table."""

from __future__ import annotations

from collections.abc import Iterable
from glob import glob
from pathlib import Path

import pandas as pd

from sagefm._errors import MissingKeyError
from sagefm.data import is_section

PATH, SAMPLE = "path", "sample"


def section_table(sections: str | Path | Iterable[str | Path] | pd.DataFrame) -> pd.DataFrame:
    """Return the sections as a table with the columns `path` and `sample`."""
    if isinstance(sections, pd.DataFrame):
        table = sections.copy()
    elif isinstance(sections, str | Path):
        table = _table_at(Path(sections).expanduser())
    else:
        table = pd.DataFrame({PATH: [Path(path).expanduser() for path in sections]})
    if PATH not in table:
        raise MissingKeyError(f"The table of sections has no column {PATH!r}; it has {list(table)}.")
    if not len(table):
        raise FileNotFoundError(f"There are no sections in {sections!r}: no .h5ad, no .zarr, no Space Ranger folder.")
    table[PATH] = [str(path) for path in table[PATH]]
    if SAMPLE not in table:
        table.insert(0, SAMPLE, [Path(path).stem for path in table[PATH]])
    doubles = table[SAMPLE][table[SAMPLE].duplicated()]
    if len(doubles):
        raise ValueError(f"The name {doubles.iloc[0]!r} stands for several sections; name them in a column {SAMPLE!r}.")
    return table


def _table_at(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        if PATH in table:
            table[PATH] = [str(path.parent / entry) for entry in table[PATH]]
        return table
    if path.exists() and is_section(path):
        return pd.DataFrame({PATH: [path]})
    found = path.iterdir() if path.is_dir() else (Path(name) for name in glob(str(path), recursive=True))
    return pd.DataFrame({PATH: sorted(entry for entry in found if is_section(entry))})
