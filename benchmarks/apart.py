"""A competitor in a process of its own, raced in the same rounds: one that needs other settings of its whole process."""

import contextlib
import multiprocessing
import os
from dataclasses import replace

import torch


class Apart:
    """A turn that ``build(settings, *arguments)`` makes in a new process, which ends with the ``with`` block.

    The process has glibc's own settings of memory, as a user's script has, and no more cores than torch is given threads:
    some libraries ask neither.

    Attributes:
        columns: what the turn says of itself.
        parts: of the last round, in ms, where the turn has parts.
    """

    prepare = None

    def __init__(self, build, settings, *arguments):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        arguments = (there, build, replace(settings, baseline=None), *arguments)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        there.close()
        try:
            self.columns = self._reply()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._here.close()
        self._process.join()

    def ms(self, device, number=1):
        self._here.send(number)
        ms, self.parts = self._reply()
        return ms

    def _reply(self):
        try:
            error, answer = self._here.recv()
        except EOFError:
            self._process.join()
            raise ConnectionError(f"its process ended with exit code {self._process.exitcode}") from None
        if error is not None:
            raise error
        return answer


def _serve(pipe, build, settings, *arguments):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-settings.threads :])
    torch.set_num_threads(settings.threads)
    try:
        turn = build(settings, *arguments)
        pipe.send((None, turn.columns))
    except Exception as error:
        pipe.send((type(error)(*error.args), None))
        return
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            number = pipe.recv()
            try:
                answer = (None, (turn.ms(settings.device, number), getattr(turn, "parts", None)))
            except Exception as error:
                answer = (RuntimeError(f"{type(error).__name__}: {error}"), None)
            pipe.send(answer)
