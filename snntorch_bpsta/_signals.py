"""A command that is told to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stop:
    """Around a command: SIGINT and SIGTERM raise KeyboardInterrupt, and `number` says which came."""

    number: int | None = None

    def __enter__(self) -> Stop:
        self.handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # signals are Python's main thread's
            self.handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
