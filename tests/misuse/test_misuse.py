"""Every row of the table holds, and the page lists every row."""

import re
import warnings

import pytest
from misuse.page import PAGE, tables
from misuse.rows import GROUPS
from misuse.table import Raises, Row, Warns

CASES = [pytest.param(row, id=f"{group}: {row.name}") for group, rows in GROUPS.items() for row in rows]


@pytest.mark.parametrize("row", CASES)
def test_misuse(world, row: Row):
    if isinstance(row.answer, Raises):
        with pytest.raises(row.answer.error, match=f"(?s){row.answer.message}"):
            row.make(world)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        assert row.make(world)
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    if isinstance(row.answer, Warns):
        assert any(re.search(row.answer.message, message, re.DOTALL) for message in messages), messages
    else:
        assert not messages


def test_names_stand_once():
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names) >= 60


def test_the_page_has_the_table():
    assert tables() in PAGE.read_text(), "run `python -m misuse.page` in the folder tests"
