"""A user's loop over time, recorded once, then run with one call a layer."""

from .fold import FoldTime as FoldTime
from .fold import fold_time as fold_time
from .report import FoldReport as FoldReport

__all__ = ["FoldReport", "FoldTime", "fold_time"]
