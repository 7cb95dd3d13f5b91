"""When a job must have started, what is said once it has not, and when it may be promoted."""

import pytest

from config.tiers import Objectives, Promotion
from scheduler.deadlines import Deadlines
from scheduler.expiry import Decision, Drop, End, Look, decide
from scheduler.promotion import promote_at

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("deadlines", "has_started", "until"),
    [
        (Deadlines(), False, None),
        (Deadlines(start_by=5), False, 5),
        (Deadlines(start_by=5), True, None),
        (Deadlines(start_by=5, finish_by=9), False, 5),
        (Deadlines(start_by=5, finish_by=9), True, 9),
        (Deadlines(start_by=9, finish_by=5), False, 5),
    ],
)
def test_a_job_may_start_until_its_first_deadline(
    deadlines: Deadlines, has_started: bool, until: float | None
) -> None:
    assert deadlines.waits_until(has_started=has_started) == until


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-1", "1e300", b"\xff"])
def test_what_is_no_instant_is_no_deadline(text: str | bytes) -> None:
    assert Deadlines.read({"finish_by": text}) == Deadlines()


def test_what_is_written_is_what_is_read() -> None:
    deadlines = Deadlines.of(Objectives(start_within_s=30), NOW, finish_within_s=60)

    assert Deadlines.read(deadlines.fields()) == deadlines == Deadlines(NOW + 30, NOW + 60, NOW)


def test_a_job_without_deadlines_has_no_fields_of_them() -> None:
    assert Deadlines.of(Objectives(), NOW).fields() == {}


def test_who_is_late_is_told_by_how_much_it_was_meant_to_be_in_time() -> None:
    late = Deadlines(start_by=NOW + 30, finish_by=NOW + 60, since=NOW)

    start = "it had to start within 30.0 s, by 1970-01-12T13:47:10.000+00:00, and was still waiting"
    finish = (
        "it had to finish within 60.0 s, by 1970-01-12T13:47:40.000+00:00, and was still running"
    )
    assert late.passed("waiting") == start
    assert late.passed("running", has_started=True) == finish


@pytest.mark.parametrize(
    ("status", "fields", "is_passed", "decision"),
    [
        ("queued", {"start_by": NOW - 1}, False, End),
        ("queued", {"start_by": NOW - 1, "attempts": 0}, False, Drop),
        ("queued", {"finish_by": NOW - 1, "attempts": 1}, False, End),
        ("scheduled", {"finish_by": NOW - 1, "attempts": 1}, False, End),
        ("queued", {"start_by": NOW - 1, "finish_by": NOW + 9, "attempts": 1}, False, NOW + 9),
        ("started", {"finish_by": NOW - 1, "attempts": 1}, False, NOW + 5),
        ("started", {"start_by": NOW - 1, "attempts": 1}, False, Drop),
        ("deferred", {"finish_by": NOW - 1}, False, NOW + 5),
        ("failed", {"finish_by": NOW - 1, "attempts": 1}, False, Drop),
        ("queued", {}, False, Drop),
        ("queued", {}, True, End),
        (None, {}, True, Drop),
    ],
)
def test_whose_turn_has_come_ends_if_it_still_waits(
    status: str | None, fields: dict[str, float], is_passed: bool, decision: type[Decision] | float
) -> None:
    record: dict[str, bytes | None] = dict.fromkeys(
        ("status", "start_by", "finish_by", "attempts", "deadline_since")
    )
    record |= {name: str(value).encode() for name, value in fields.items()}
    record["status"] = status.encode() if status else None

    decided = decide(record, NOW, is_passed=is_passed)

    if isinstance(decision, float):
        assert decided == Look(decision)
    else:
        assert isinstance(decided, decision)


@pytest.mark.parametrize(
    ("deadlines", "at"),
    [
        (Deadlines(finish_by=NOW + 3600, since=NOW), NOW + 3600 - 30 - 72),
        (Deadlines(finish_by=NOW + 100, since=NOW), NOW + 100 - 30 - 10),
        (Deadlines(start_by=NOW + 50, finish_by=NOW + 3600, since=NOW), NOW + 50 - 10),
        (Deadlines(start_by=NOW + 50), NOW + 50 - 10),
        (Deadlines(), None),
    ],
)
def test_a_job_may_be_promoted_a_margin_before_its_latest_start(
    deadlines: Deadlines, at: float | None
) -> None:
    assert promote_at(deadlines, Promotion(service_s=30)) == at
    assert promote_at(deadlines, None) is None
