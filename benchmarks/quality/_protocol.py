"""The files that define splits, seeds and methods."""

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text())


PROTOCOL = _read("protocol.toml")
METHODS = _read("methods.toml")
