"""Ctrl-C and SIGTERM as a wish to stop at a good moment."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["StopSignals", "TrainingInterrupted"]


class TrainingInterrupted(SystemExit):
    """A signal stopped the run; the process ends with 128 + its number (130 after Ctrl-C, 143 after SIGTERM)."""


class StopSignals:
    """Notes SIGINT and SIGTERM inside a ``with`` block instead of ending the process; a second one acts at once.

    Attributes
    ----------
    received : int
        Number of the signal, 0 while there is none. Another worker's signal may be set here as well.
    """

    _WATCHED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = 0
        if threading.current_thread() is threading.main_thread():  # only this one may set handlers
            self._before = {number: signal.signal(number, self._note) for number in self._WATCHED}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
