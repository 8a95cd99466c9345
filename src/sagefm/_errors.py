"""The one error class that Python lacks."""


class MissingKeyError(KeyError):
    """A KeyError whose message reads as it was written; a plain one shows it quoted and escaped."""

    __str__ = Exception.__str__
