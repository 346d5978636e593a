"""Stopping a run by a signal, at a moment when its state can be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal asked the run to stop; a second one stops the process at once.

    `announce` is called with the signal's number, inside the signal handler.
    """

    def __init__(self, announce: Callable[[int], None] = lambda number: None) -> None:
        self.signal: int | None = None
        self._announce = announce

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for listened in (signal.SIGINT, signal.SIGTERM):
            signal.signal(listened, signal.SIG_DFL)
        self._announce(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the block runs."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
