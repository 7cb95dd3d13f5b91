"""Backpressure: a queue that is full for a tier takes no more of its jobs."""

import pytest

from config.tiers import Limits
from scheduler.admission import Full, full
from scheduler.estimate import Outlook
from scheduler.line import Place, QueueView
from scheduler.work import Size

NOW = 1000.0


def outlook(waiting: int, *, work: int, rate: float | None = None, own: int = 10) -> Outlook:
    """Return what is known before a job; each of those that wait has so much work."""
    head = Place(1, 0, work, "low") if waiting else None
    queue = QueueView("low", waiting, 0, waiting, waiting * work, head)
    return Outlook(NOW, Size(own, own, 0), rate=rate, queue=queue)


@pytest.mark.parametrize(
    ("waiting", "limits", "limit"),
    [
        (0, Limits(max_queued_jobs=1), None),
        (1, Limits(max_queued_jobs=1), "max_queued_jobs"),
        (9, Limits(max_queued_jobs=10), None),
        (10, Limits(max_queued_jobs=10), "max_queued_jobs"),
        (10, Limits(max_queued_tokens=1010), None),
        (10, Limits(max_queued_tokens=1009), "max_queued_tokens"),
        (0, Limits(max_queued_tokens=1), None),
        (10, Limits(), None),
    ],
)
def test_a_queue_is_full_by_jobs_or_by_tokens(
    waiting: int, limits: Limits, limit: str | None
) -> None:
    found = full("batch", limits, outlook(waiting, work=100))

    assert (found.limit if found else None) == limit


def test_a_refusal_says_how_full_it_is_and_when_there_will_be_room() -> None:
    found = full("batch", Limits(max_queued_jobs=8), outlook(10, work=100, rate=50))

    assert found == Full("batch", "low", "max_queued_jobs", 8, 10, 1000, retry_after_s=6)


def test_the_time_to_come_back_is_bounded_and_a_guess_without_a_rate() -> None:
    limits = Limits(max_queued_tokens=1)
    slow = full("batch", limits, outlook(10, work=10_000, rate=1))
    unknown = full("batch", limits, outlook(10, work=10_000))

    assert slow is not None
    assert unknown is not None
    assert (slow.retry_after_s, unknown.retry_after_s) == (120, 5)
