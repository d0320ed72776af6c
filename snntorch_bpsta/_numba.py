"""What of numba is private: a cache of compiled kernels that can fail without failing them. tests/test_numba.py."""

from __future__ import annotations

from typing import Any
from warnings import warn

import numba
from numba.core.caching import FunctionCache

_said: list[str] = []


def njit(signature: Any = None, **options: Any) -> Any:
    """``numba.njit(signature, nogil=True, cache=True, **options)``, a decorator, for machines on which the cache cannot be
    written, or is cut: the kernel is compiled all the same, and a warning says once in a process what that costs."""

    def decorate(function):
        dispatcher = numba.njit(nogil=True, **options)(function)
        try:
            dispatcher._cache = _Cache(function)
        except (RuntimeError, OSError) as error:  # no folder that can be written; no source to date it by
            _say(error)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """numba's, which lets every error of the file system, and of a file that was cut, through to the caller of a kernel."""

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file that was cut can raise anything when it is unpickled; it is written anew
            return None

    def save_overload(self, sig, data):
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # the index was cut
                self.flush()
                super().save_overload(sig, data)
        except Exception as error:  # nothing hangs on it
            _say(error)


def _say(error):
    if not _said:
        _said.append(str(error))
        warn(
            f"compiled kernels cannot be kept ({error}), so every process compiles those that it needs, for 1 to 4 seconds "
            "each at first use. Set the environment variable NUMBA_CACHE_DIR to a folder that can be written, by you alone: "
            "who can write there can run code in your processes",
            stacklevel=3,
        )
