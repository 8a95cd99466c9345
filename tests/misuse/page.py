"""The table as Markdown. In the folder `tests`, `python -m misuse.page` brings `docs/reliability.md` up to date."""

import re
from pathlib import Path

from misuse.rows import GROUPS
from misuse.table import Row

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- table of misuse -->\n", "<!-- end of the table -->\n"


def tables() -> str:
    """Return the number of rows, and one table for each group."""
    n_rows = sum(map(len, GROUPS.values()))
    return f"{n_rows} rows.\n\n" + "\n".join(_table(name, rows) for name, rows in GROUPS.items())


def _table(name: str, rows: list[Row]) -> str:
    lines = [f"| {_cell(row.name)} | {_cell(str(row.answer))} |\n" for row in rows]
    return f"### {name}: {len(rows)} rows\n\n| input | answer |\n| --- | --- |\n{''.join(lines)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: f"{_BEGIN}\n{tables()}\n{_END}", page, flags=re.DOTALL))
