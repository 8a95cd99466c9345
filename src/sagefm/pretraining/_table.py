"""A folder, pattern, list or table of sections, as one table."""

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
        raise MissingKeyError(f"The table of sections has no column {PATH!r}; found {list(table)}.")
    if table.empty:
        raise FileNotFoundError(f"No sections in {sections!r}: expected .h5ad, .zarr or Space Ranger folders.")
    table[PATH] = table[PATH].map(str)
    if SAMPLE not in table:
        table.insert(0, SAMPLE, [Path(path).stem for path in table[PATH]])
    if (repeated := table[SAMPLE].duplicated()).any():
        name = table[SAMPLE][repeated].iloc[0]
        raise ValueError(f"Several sections have the name {name!r}; give each its own name in a column {SAMPLE!r}.")
    return table


def _table_at(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        if PATH in table:
            table[PATH] = [path.parent / entry for entry in table[PATH]]
        return table
    if path.exists() and is_section(path):
        return pd.DataFrame({PATH: [path]})
    found = path.iterdir() if path.is_dir() else map(Path, glob(str(path), recursive=True))
    return pd.DataFrame({PATH: sorted(filter(is_section, found))})
