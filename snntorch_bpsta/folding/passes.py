"""Calls of one kind: recorded, planned, compared with what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import plan as plans
from .records import Unfoldable
from .replay import Runner
from .report import FoldReport, name_of, report_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Recording

GIVEN_UP = 12  # so many calls in a row that were like none before are enough


class Pass:
    """What is known of calls of one kind."""

    def __init__(self) -> None:
        self.recorded = 0
        self.reason: str | None = None
        self.runner: Runner | None = None
        self.fingerprint: list[tuple[Any, str]] = []
        self.seen: list[Any] = []  # the numbers that were looked at
        self.replayed = False  # the last time
        self.missed = 0  # how often in a row a number that was looked at was another
        self.report = FoldReport((), {}, "it has not been called yet")

    def miss(self, look: str) -> None:
        """Note that a number that was looked at was another."""
        self.missed += 1
        if self.missed >= GIVEN_UP:
            raise Unfoldable(f"the numbers that {look} looks at are others in each call")

    def prepare(self, recording: Recording, joint: bool, check: bool, say: Callable[[str], None]) -> None:
        """Make a plan of a recording, and look whether it does what was recorded.

        Args:
            recording: a simplified one.
            joint: normalisations in training may take all steps at once.
            check: compare each group with its steps.
            say: is told of groups that were given up.
        """
        before, self.fingerprint = self.fingerprint, plans.fingerprint(recording)
        self.recorded += 1
        seen, self.seen = self.seen, [look.seen for look in recording.looks]
        if before and seen != self.seen:  # another way, because of other numbers
            self.recorded = 1
            self.miss(recording.looks[0].line if recording.looks else "the net")
        elif before:
            _check_same(before, self.fingerprint)
            if self.runner is not None:
                return
        apart = self.runner.plan.apart if self.runner is not None else frozenset()
        plan = plans.make(recording, joint, apart)
        runner = Runner(plan, {})
        while check and (failed := runner.failures()):
            names = ", ".join(sorted({name_of(unit.first, plan) for unit in failed}))
            say(f"{names} gave other numbers for all steps at once than step by step, and is left as it is")
            apart = apart | {plan.keys[unit.first] for unit in failed}
            plan = plans.make(recording, joint, apart)
            runner = Runner(plan, runner.twins)
        self.report = report_of(plan, runner.twins)
        if not any(unit.group and unit.selects is None for unit in plan.units):
            raise Unfoldable("no call is made more than once in a way that all steps could be taken at once")
        for node in recording.nodes:
            node.values = {}
        self.runner = runner


def _check_same(before, after):
    """Two passes with arguments of one kind have to make the same calls."""
    for (a, line), (b, _) in zip(before, after, strict=False):
        if a != b:
            raise Unfoldable(f"two passes with arguments of one kind differ, first at {line or 'their results'}")
    if len(before) != len(after):
        raise Unfoldable(
            "two passes with arguments of one kind differ in length: what the net does depends on the numbers"
        )
