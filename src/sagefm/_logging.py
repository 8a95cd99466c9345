"""The logger. Its lines are shown as scvi-tools shows its own, since they say what was done to the user's data."""

import logging

from rich.console import Console
from rich.logging import RichHandler

logger = logging.getLogger("sagefm")
if not logger.handlers:
    logger.setLevel(logging.INFO)
    logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, show_time=False))
