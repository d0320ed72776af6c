"""How far something is, on standard error: a bar on a terminal (tqdm), a line a minute where there is none."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

_EVERY = 60.0  # seconds between two lines
_line = 0  # of the terminal, counted from the one that is written to: the first is another process's


def below(lines: int) -> None:
    """The bars of this process are so many lines below those of the one that started it."""
    global _line
    _line = lines


class Progress:
    """How far something is. Used in ``with``, at whose end the bar goes.

    Args:
        what: what stands in front.
        unit: what is counted.
        delay: seconds before the bar appears.
    """

    def __init__(self, what: str, unit: str, delay: float = 0.0) -> None:
        self.what, self.unit, self.delay = what, unit, delay
        self._bar: Any = None
        self._first, self._done, self._total = 0, 0, 0
        self._started: float | None = None
        self._said = time.monotonic()

    def at(self, done: int, total: int) -> None:
        """So many are done, of so many. The first call begins: what is done then was done before."""
        if self._started is None:
            self._started, self._first = time.monotonic(), done
            self._begin(done, total)
        self._done, self._total = done, total
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said > _EVERY:
            self.say(f"{self.what}: {done:,} of {total:,} {self.unit}")

    def _begin(self, done, total):
        if not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:  # of an extra; without it there are lines
            return
        self._bar = tqdm(
            total=total, initial=done, desc=self.what, unit=f" {self.unit}", delay=self.delay, position=_line, smoothing=0,
            leave=False, dynamic_ncols=True, file=sys.stderr,
        )  # fmt: skip

    def say(self, line: str) -> None:
        """A line of its own; above the bar, or with the time that is left."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line + self._left(), file=sys.stderr, flush=True)

    def _left(self):
        here = self._done - self._first
        if self._started is None or here <= 0 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._started) / here * (self._total - self._done)
        return f", {timedelta(seconds=round(seconds))} left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """The bar goes."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def follow(things: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """`things`, of which there are `total`, with a bar where that takes longer than two seconds."""
    with Progress(what, unit, delay=2.0) as progress:
        for done, thing in enumerate(things):
            progress.at(done, total)
            yield thing
