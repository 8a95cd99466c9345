"""Error classes, and a check of arguments that many functions share."""

from collections.abc import Iterable


class MissingKeyError(KeyError):
    """A KeyError whose message is shown as written; a plain KeyError shows it quoted and escaped."""

    __str__ = Exception.__str__


class UnreadableError(ValueError):
    """A file that is damaged or of another kind than expected."""


class DivergedError(RuntimeError):
    """Training whose loss became NaN or infinite."""


# Raised in reading and checking a section if something is wrong with the section; other errors are bugs.
SECTION_ERRORS = (OSError, ValueError, MissingKeyError)


def refuse_unknown(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless the argument's value is one of the choices."""
    if value not in (choices := tuple(choices)):
        raise ValueError(f"{name}={value!r} is not known; it is one of {', '.join(map(repr, choices))}.")


class GeneMismatchError(ValueError):
    """Too few genes of a section are known to the model."""
