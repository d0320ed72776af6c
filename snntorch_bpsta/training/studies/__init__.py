"""Studies: one claim each, a grid of recipes over seeds, a table with paired tests."""

from .claims import STUDIES, Study, grid, quick
from .run_all import RunsFailed, study
from .simulator import against_recordings
from .table import format_study, tabulate

__all__ = ["STUDIES", "RunsFailed", "Study", "against_recordings", "format_study", "grid", "quick", "study", "tabulate"]
