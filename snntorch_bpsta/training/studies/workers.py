"""Processes that do tasks side by side. They end with the one that started them; one that is killed costs its task alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..._progress import below

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

__all__: list[str] = []

_parent: connection.Connection | None = None  # of a worker, the one that started it


class Failure(NamedTuple):
    """Why a task has no answer: one line, and the traceback where there is one."""

    error: str
    traceback: str | None = None


class _News(NamedTuple):
    """What a worker tells of a task that it goes on with."""

    value: Any


def report(value: Any) -> None:
    """Tell the one that started this process something of the task; nobody where no worker does it."""
    if _parent is not None:
        _parent.send(_News(value))


class Workers:
    """At most `jobs` processes, each of which does one task at a time, with `threads` threads of torch.

    Used in ``with``, at whose end the processes are killed, whatever they do.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self._jobs, self._threads = jobs, threads
        self._all: list[_Worker] = []
        self._busy: dict[_Worker, Hashable] = {}

    @property
    def busy(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._busy)

    @property
    def free(self) -> bool:
        """Whether one more task can be begun."""
        return len(self._busy) < self._jobs

    def begin(self, task: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """Have ``function(*args)`` called in a process that is free. The function is imported there by its name."""
        for worker in [worker for worker in self._all if worker not in self._busy]:
            if worker.send(function, args):
                break
            self._all.remove(worker)  # it was killed since its last task
        else:
            worker = _Worker()
            self._all.append(worker)  # before it is started: what is not known is not killed
            worker.start(self._threads, len(self._all))
            worker.send(function, args)
        self._busy[worker] = task

    def wait(self, hear: Callable[[Any, Any], object]) -> tuple[Any, Any]:
        """The next task that is done, and what its function returned, or a :class:`Failure`. Meanwhile `hear` is called with
        a task and what its function has to :func:`report`."""
        while True:
            ready = connection.wait([worker.connection for worker in self._busy])
            worker = next(worker for worker in self._busy if worker.connection in ready)
            answer = worker.answer()
            if not isinstance(answer, _News):
                return self._busy.pop(worker), answer
            hear(self._busy[worker], answer.value)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._all:
            worker.kill()


class _Worker:
    """A process that does one task after the other."""

    def start(self, threads, place):
        context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, place))
        with _no_interrupt():
            self.process.start()
        theirs.close()

    def send(self, function, args):
        """Whether there is a process to take it."""
        try:
            self.connection.send((function, args))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self):
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Failure(_ended(self.process.exitcode))

    def kill(self):
        process = getattr(self, "process", None)
        if process is not None and process.pid is not None:
            process.kill()
            process.join()
            self.connection.close()


def _ended(code):
    """How a process ended that gave no answer."""
    if code >= 0:
        return f"its process ended with exit code {code} and no answer"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    memory = ": was there enough memory? fewer --jobs need less" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{memory}"


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Inside, processes are started that Ctrl-C does not reach: they end with this one, which has it, and print nothing."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    resource_tracker.ensure_running()  # which would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_a_line(message, *where, **line):
    """A warning among the lines of the runs."""
    return f"warning: {message}\n"


def _serve(tasks, threads, place):
    """The life of a process; its bars are `place` lines below that of the one that started it."""
    global _parent
    _parent = tasks
    below(place)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where it could not be blocked
    torch.set_num_threads(threads)
    warnings.formatwarning = _in_a_line
    while True:
        try:
            function, args = tasks.recv()
        except EOFError:
            return
        try:
            answer = function(*args)
        except Exception as error:
            answer = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        tasks.send(answer)


def _end_with_parent():
    # A pipe that closes when the parent is gone, also if it went before this line.
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
