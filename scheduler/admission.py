"""Admission at the door: a job that will most likely be late is refused now, not failed later.

Likely is what the estimate of the job's submission says, whose quantiles are held to account; where
it says nothing, everything is admitted.
"""

import math
from dataclasses import dataclass

from scheduler.deadlines import Deadlines
from scheduler.estimate import Outlook

AT_RISK, REFUSED = 0.5, 0.9
"""Probabilities of a miss above which a job is told of it, and above which it is refused."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job may come; `at_risk`: it is more likely than not that it will be late."""

    tier: str
    deadlines: Deadlines
    outlook: Outlook
    at_risk: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The job would miss its deadline, one of `start_within_s` and `finish_within_s`."""

    tier: str
    deadline: str
    outlook: Outlook
    earliest_s: int
    """The shortest such deadline that would be kept with probability 0.9."""
    retry_after_s: int
    """After which the deadline can be met more likely than not, if nobody else submits."""


Decision = Admitted | Refused


def at_risk(deadlines: Deadlines, outlook: Outlook) -> bool:
    """Whether it is more likely than not that a deadline will be missed."""
    return outlook.miss(deadlines) > AT_RISK


def decide(tier: str, deadlines: Deadlines, outlook: Outlook) -> Decision:
    """Return whether a job may come."""
    if outlook.miss(deadlines) <= REFUSED:
        return Admitted(tier, deadlines, outlook, at_risk(deadlines, outlook))
    start, finish = Deadlines(start_by=deadlines.start_by), Deadlines(finish_by=deadlines.finish_by)
    if outlook.miss(finish) >= outlook.miss(start):
        name, by = "finish_within_s", deadlines.finish_by
        p50, p90 = outlook.finish_s(0.5), outlook.finish_s(0.9)
    else:
        name, by = "start_within_s", deadlines.start_by
        p50, p90 = outlook.start_s(0.5), outlook.start_s(0.9)
    assert by is not None
    assert p50 is not None
    assert p90 is not None
    late_s = p50 - (by - outlook.at)
    return Refused(tier, name, outlook, max(1, math.ceil(p90)), max(1, math.ceil(late_s)))
