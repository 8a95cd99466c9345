"""The table of misuse: what is put in, and what must come of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Raises:
    """An error of this class, with a message that this regular expression is found in."""

    error: type[BaseException]
    message: str

    def __str__(self) -> str:
        return f"`{self.error.__name__}`: {_readable(self.message)}"


@dataclass(frozen=True)
class Warns:
    """A warning with such a message, and a result that holds."""

    message: str
    result: str

    def __str__(self) -> str:
        return f"`UserWarning`: {_readable(self.message)}; {self.result}"


@dataclass(frozen=True)
class Gives:
    """No error and no warning, and a result that holds."""

    result: str

    def __str__(self) -> str:
        return self.result


@dataclass(frozen=True)
class Row:
    """One row: `make` puts the input in; where a result is expected, it returns whether it holds."""

    name: str
    make: Callable[[Any], Any]
    answer: Raises | Warns | Gives


def _readable(pattern: str) -> str:
    return re.sub(r"\s*\.\*\s*", " … ", pattern).replace("\\", "")


SAME = Gives("the same result")
