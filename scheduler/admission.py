"""Admission at the door: a job that will most likely be late is refused now, not failed later.

Likely is what the estimate of the job's submission says, whose quantiles are held to account; where
it says nothing, everything is admitted.

A queue is bounded, too: who comes to one that is full for his tier is refused. How many jobs wait
is the queue's length, and their tokens are that many times the mean work of those in line, by the
odometer of `scheduler.line`: expected output tokens, and a tenth of a token per token of a prompt.
Both are read in the step that makes the estimate, so a bound costs nothing and holds for plain RQ's
jobs as well; jobs that come at the same moment may exceed it by as many as come at once.
"""

import math
from dataclasses import dataclass

from config.tiers import Limits
from scheduler.deadlines import Deadlines
from scheduler.estimate import Outlook

AT_RISK, REFUSED = 0.5, 0.9
"""Probabilities of a miss above which a job is told of it, and above which it is refused."""
UNKNOWN_WAIT_S, LONGEST_WAIT_S = 5, 120
"""When to come back to a full queue, where no rate is known, and at the latest."""


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


@dataclass(frozen=True, slots=True)
class Full:
    """The queue holds as much as it may for jobs of the tier; `limit` is the key of tiers.yaml."""

    tier: str
    queue: str
    limit: str
    most: int
    queued_jobs: int
    queued_tokens: int
    retry_after_s: int
    """After which there is room, if nobody else submits; a guess where no rate is known."""


Decision = Admitted | Refused | Full


def at_risk(deadlines: Deadlines, outlook: Outlook) -> bool:
    """Whether it is more likely than not that a deadline will be missed."""
    return outlook.miss(deadlines) > AT_RISK


def full(tier: str, limits: Limits, outlook: Outlook) -> Full | None:
    """Return how full the queue is, if it has no room for one more job of `tier`.

    A queue that is empty has room for one of any size.
    """
    if outlook.queue is None:
        return None
    jobs, tokens = outlook.queue.waiting, round(outlook.queue.work_waiting(0.0))
    num_too_many = jobs + 1 - limits.max_queued_jobs
    too_much = tokens + outlook.size.work - limits.max_queued_tokens if jobs else 0
    if num_too_many > 0:
        excess = num_too_many * tokens / max(1, jobs)
        name, most = "max_queued_jobs", limits.max_queued_jobs
    elif too_much > 0:
        name, most, excess = "max_queued_tokens", limits.max_queued_tokens, float(too_much)
    else:
        return None
    wait_s = excess / outlook.rate if outlook.rate else UNKNOWN_WAIT_S
    retry_after_s = min(LONGEST_WAIT_S, max(1, math.ceil(wait_s)))
    return Full(tier, outlook.queue.name, name, most, jobs, tokens, retry_after_s)


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
