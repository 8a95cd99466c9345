"""Log lines of sagefm are shown once, whatever logging the user has set up."""

import subprocess
import sys

import pytest

SCRIPT = """
import logging
{before}
from sagefm._logging import logger
{after}
logger.info("a line of sagefm")
logging.getLogger("other").warning("a line of another package")
"""
BASIC = "logging.basicConfig(level=logging.INFO)"


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), (BASIC, ""), ("", BASIC)], ids=["no logging", "before import", "after import"]
)
def test_a_line_is_shown_once(before, after):
    script = SCRIPT.format(before=before, after=after)
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stderr.count("a line of sagefm") == 1
    assert shown.stderr.count("a line of another package") == 1
    assert not shown.stdout
