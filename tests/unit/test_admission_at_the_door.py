"""Who would most likely be late is refused with what would be feasible; who might be is told."""

import pytest

from scheduler.admission import Admitted, Refused, decide
from scheduler.deadlines import Deadlines
from scheduler.estimate import Forecast, Outlook, Span
from scheduler.work import Size

NOW = 1000.0
SIZE = Size(10, 10, 1)
BUSY = Outlook(NOW, SIZE, 100, 5000, 100, Forecast(Span(50, 10), Span(100, 10)))
UNKNOWN = Outlook(NOW, SIZE, 100)


@pytest.mark.parametrize(
    ("deadlines", "verdict"),
    [
        (Deadlines(), "admitted"),
        (Deadlines(finish_by=NOW + 200), "admitted"),
        (Deadlines(finish_by=NOW + 101), "admitted"),
        (Deadlines(finish_by=NOW + 99), "at risk"),
        (Deadlines(finish_by=NOW + 88), "at risk"),
        (Deadlines(finish_by=NOW + 86), "finish_within_s"),
        (Deadlines(finish_by=NOW - 1), "finish_within_s"),
        (Deadlines(start_by=NOW + 49, finish_by=NOW + 200), "at risk"),
        (Deadlines(start_by=NOW + 30, finish_by=NOW + 200), "start_within_s"),
    ],
)
def test_the_chance_of_a_miss_decides(deadlines: Deadlines, verdict: str) -> None:
    match decide("batch", deadlines, BUSY):
        case Admitted(at_risk=at_risk):
            assert ("at risk" if at_risk else "admitted") == verdict
        case Refused(deadline=deadline):
            assert deadline == verdict


def test_a_refusal_says_what_would_be_feasible_and_when_to_come_back() -> None:
    refused = decide("batch", Deadlines(finish_by=NOW + 60), BUSY)

    assert isinstance(refused, Refused)
    assert refused.earliest_s == 113  # 100 s and 1.28 deviations of 10 s
    assert refused.retry_after_s == 40


def test_where_nothing_is_known_nobody_is_refused() -> None:
    decision = decide("batch", Deadlines(start_by=NOW - 5, finish_by=NOW - 1), UNKNOWN)

    assert isinstance(decision, Admitted)
    assert not decision.at_risk
