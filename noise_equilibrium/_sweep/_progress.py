"""A progress bar: rate, time left, and the number of runs that diverged; on a terminal only."""

import sys
from typing import Any


class Progress:
    """Counts runs.

    Args:
        show: whether to draw a bar if standard error is a terminal.
        total: the number of runs.
        done: how many of them are done already.
        diverged: how many of those have diverged.
    """

    def __init__(self, show: bool, total: int, done: int, diverged: int):
        self.total, self.done, self.diverged = total, done, diverged
        self._bar: Any = None
        if show and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit="run", desc="sweep", smoothing=0.1)
            self._bar.set_postfix(diverged=diverged)

    def add(self, done: int, diverged: int) -> None:
        """Count runs that have been done."""
        self.done += done
        self.diverged += diverged
        if self._bar is not None:
            self._bar.set_postfix(diverged=self.diverged, refresh=False)
            self._bar.update(done)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
