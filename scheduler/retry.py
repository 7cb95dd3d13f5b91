"""Retry: whether a job that failed runs again, and after which pause.

The kind of the failure decides, and the pause is full jitter: anything from nothing to a bound that
doubles with every attempt up to a cap, so that jobs which failed together do not come back
together. A job whose producer gave RQ intervals of its own keeps those. Deaths of workers are
counted apart: `scheduler.rescue`.
"""

from dataclasses import dataclass

from config.tiers import RetryPolicy

MAY_RETRY: dict[str, bool] = {
    "invalid_request": False,
    "invalid_record": False,
    "engine_failure": True,
    "engine_dead": True,
    "expired": False,
    "timeout": True,
    "job_failed": True,
}
"""Whether a failure of this code may be retried: bad input stays bad, and late stays late."""


@dataclass(frozen=True, slots=True)
class Again:
    """The job runs again, after `delay_s`; at once where that is 0."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Never:
    """The job has failed for good."""


Decision = Again | Never


def decide(code: str, *, retries_left: int, pause: RetryPolicy | float, draw: float) -> Decision:
    """Return what becomes of a job that failed with `code`; `draw` is random, in [0, 1).

    `pause` is the policy of the job's tier, or the seconds that its producer chose. An unknown code
    may be retried: a retry too many costs a bounded time, one too few a person's.
    """
    if retries_left < 1 or not MAY_RETRY.get(code, True):
        return Never()
    if isinstance(pause, RetryPolicy):
        return Again(draw * _bound_s(pause, retries_left))
    return Again(pause)


def _bound_s(policy: RetryPolicy, retries_left: int) -> float:
    """Return the longest pause; more retries left than the policy has now count as all of them."""
    num_retried = max(0, policy.max - retries_left)
    return float(min(policy.cap_s, policy.base_s * 2**num_retried))
