"""A command that is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Stop:
    """Around a command: SIGINT and SIGTERM raise KeyboardInterrupt, and `number` says which came.

    Args:
        gently: the first one is only noted, and said, for what is inside to end at a point to go on from; the second raises.
    """

    number: int | None = None

    def __init__(self, gently: bool = False) -> None:
        self.gently = gently

    def __enter__(self) -> Stop:
        self.handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # signals are Python's main thread's
            before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.handlers = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        self.take()
        return self

    def take(self) -> None:
        """Take the signals back from handlers that a library has put over these since."""
        for number in self.handlers:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, number
        if not (self.gently and first):
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        print(f"\n{name}: stopping at the end of this step; once more to stop at once", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
