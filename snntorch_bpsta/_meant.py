"""The name that was meant by one that is not there."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def alike(word: str, names: Iterable[str]) -> list[str]:
    """The name that was meant by `word`, in a list of one, if there is one."""
    return difflib.get_close_matches(word, [*names], 1)


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a message."""
    text = ", ".join(names)
    return f"; did you mean {text}?" if text else ""


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an argument by a name that a function does not know, as Python does, and say which was meant.

    Raises:
        TypeError: there is one.
    """
    known = [*known]
    for name in given:
        if name not in known:
            meant = did_you_mean(alike(name, known))
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{meant}")


def says_what_was_meant(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with :func:`check_keywords` in front of it."""
    known = inspect.signature(function).parameters

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return call
