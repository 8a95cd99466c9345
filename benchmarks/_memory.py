"""Peak memory of a piece of code."""

import threading
import time
from contextlib import suppress

import psutil


class PeakMemory:
    """Record the peak memory of this process within a `with` block.

    Parameters
    ----------
    children
        Whether to include child processes. Shared pages are then counted once (PSS) instead of the resident memory of
        this process; because that takes longer, it is sampled every 250 ms instead of every 5 ms.
    """

    def __init__(self, *, children: bool = False) -> None:
        self._children, self._process = children, psutil.Process()

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = self._now()
        self._open = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open = False
        self._thread.join()

    @property
    def extra(self) -> int:
        """Peak memory in bytes, beyond the memory in use when the block was entered."""
        return self.peak - self.before

    def _watch(self) -> None:
        while self._open:
            self.peak = max(self.peak, self._now())
            time.sleep(0.25 if self._children else 0.005)

    def _now(self) -> int:
        if not self._children:
            return self._process.memory_info().rss
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with suppress(psutil.Error):  # the process has ended
                total += process.memory_full_info().pss
        return total
