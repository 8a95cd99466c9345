"""Hide lines of other packages that no user can act on, while our own calls run; the user's session stays as it is."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_WARNINGS = (
    r"'\w+' is not a valid key!",  # docrep, when squidpy is imported
    r"The method obs_vector is deprecated",  # squidpy's use of anndata
    r"The number of training batches .* logging interval",  # Lightning's, of loggers that training does not use
    r"The '\w+' does not have many workers",  # the spots are in memory, or the data module has the number asked for
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of torch
)
_LOGGED = {  # by logger
    "lightning.pytorch.utilities.rank_zero": r"[GHT]PU available|.*Tip: |`Trainer\.fit` stopped",
    "lightning.pytorch.accelerators.cuda": r"LOCAL_RANK",
    "scvi.data._download": r"File .* already downloaded",  # said of every model that is loaded from a folder
}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide these lines; all others are shown."""
    with warnings.catch_warnings(), ExitStack() as stack:
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message)
        for name, message in _LOGGED.items():
            stack.enter_context(_without(logging.getLogger(name), re.compile(message)))
        yield


@contextmanager
def _without(logger: logging.Logger, message: re.Pattern) -> Iterator[None]:
    """Drop the records of a logger whose message starts so."""

    def is_kept(record: logging.LogRecord) -> bool:
        return not message.match(record.getMessage())

    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)
