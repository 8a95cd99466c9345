"""Peak memory of a piece of code."""

import threading
import time

import psutil


class PeakMemory:
    """Record the peak resident memory of this process within a `with` block, sampled every 5 ms."""

    def __enter__(self) -> "PeakMemory":
        self._process, self._open = psutil.Process(), True
        self.before = self.peak = self._process.memory_info().rss
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
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(0.005)
