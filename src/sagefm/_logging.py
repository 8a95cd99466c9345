"""The logger. Its lines are shown as scvi-tools shows its own, since they say what was done to the user's data."""

import logging

from rich.console import Console
from rich.logging import RichHandler

logger = logging.getLogger("sagefm")
if not logger.handlers:
    logger.propagate = False  # else the root logger, where a user has set one up, shows every line a second time
    logger.setLevel(logging.INFO)
    logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, show_time=False))
