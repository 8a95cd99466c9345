"""The logger. Its lines look like those of scvi-tools, since they report what was done to the user's data."""

import logging

from rich.console import Console
from rich.logging import RichHandler

logger = logging.getLogger("sagefm")
if not logger.handlers:
    logger.propagate = False  # else a root logger set up by the user would show every line twice
    logger.setLevel(logging.INFO)
    logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, show_time=False))
