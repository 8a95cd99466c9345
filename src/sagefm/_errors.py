"""Error classes that Python lacks, and checks of arguments that many functions share."""

from collections.abc import Iterable


class MissingKeyError(KeyError):
    """A KeyError whose message reads as it was written; a plain one shows it quoted and escaped."""

    __str__ = Exception.__str__


class UnreadableError(ValueError):
    """A file that is damaged, or not of the expected kind."""


class DivergedError(RuntimeError):
    """Training whose loss became NaN or infinite."""


# What reading and checking a section raises when something is wrong with the section; other errors are bugs.
SECTION_ERRORS = (OSError, ValueError, MissingKeyError)


def refuse_unknown(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless the argument's value is one of the choices."""
    if value not in (choices := tuple(choices)):
        raise ValueError(f"{name}={value!r} is not known; it is one of {', '.join(map(repr, choices))}.")
