"""Whether and when a failed job runs again: bad input never, all else within doubling bounds."""

import pytest

from config.tiers import RetryPolicy
from gpu_worker.engine import EngineError
from scheduler.retry import MAY_RETRY, Again, Decision, Never, decide

POLICY = RetryPolicy(max=5, base_s=2, cap_s=10)
DRAWS = [0.0, 0.25, 0.5, 0.999_999]


@pytest.mark.parametrize(
    ("code", "retries_left", "pause", "draw", "decision"),
    [
        ("timeout", 5, POLICY, 0.5, Again(1.0)),
        ("timeout", 4, POLICY, 0.5, Again(2.0)),
        ("timeout", 3, POLICY, 0.5, Again(4.0)),
        ("timeout", 2, POLICY, 0.5, Again(5.0)),
        ("timeout", 1, POLICY, 0.5, Again(5.0)),
        ("timeout", 0, POLICY, 0.5, Never()),
        ("timeout", 9, POLICY, 0.5, Again(1.0)),
        ("timeout", 5, POLICY, 0.0, Again(0.0)),
        ("engine_failure", 5, POLICY, 0.25, Again(0.5)),
        ("engine_dead", 5, POLICY, 0.25, Again(0.5)),
        ("job_failed", 5, POLICY, 0.25, Again(0.5)),
        ("a code of tomorrow", 5, POLICY, 0.25, Again(0.5)),
        ("invalid_request", 5, POLICY, 0.5, Never()),
        ("invalid_record", 5, POLICY, 0.5, Never()),
        ("timeout", 2, 30, 0.5, Again(30)),
        ("timeout", 2, 0, 0.5, Again(0)),
        ("timeout", 0, 30, 0.5, Never()),
        ("invalid_request", 2, 30, 0.5, Never()),
        ("timeout", 0, RetryPolicy(), 0.5, Never()),
    ],
)
def test_a_failed_job_runs_again_by_its_code_its_retries_and_its_pause(
    code: str, retries_left: int, pause: RetryPolicy | float, draw: float, decision: Decision
) -> None:
    assert decide(code, retries_left=retries_left, pause=pause, draw=draw) == decision


def pauses(policy: RetryPolicy, draw: float) -> list[float]:
    """Return the pauses of one job, first to last."""
    decisions = [
        decide("timeout", retries_left=left, pause=policy, draw=draw)
        for left in range(policy.max, 0, -1)
    ]
    return [decision.delay_s for decision in decisions if isinstance(decision, Again)]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("base_s", [0.01, 1, 86_400])
@pytest.mark.parametrize("cap_s", [86_400])
@pytest.mark.parametrize("most", [1, 20])
def test_pauses_never_shrink_and_never_reach_the_cap(
    most: int, base_s: float, cap_s: float, draw: float
) -> None:
    found = pauses(RetryPolicy(max=most, base_s=base_s, cap_s=cap_s), draw)

    assert len(found) == most
    assert found == sorted(found)
    assert 0 <= found[0] <= base_s
    assert all(0 <= pause < cap_s for pause in found)


@pytest.mark.parametrize("retries_left", [1, 3, 5])
def test_a_larger_draw_is_a_longer_pause(retries_left: int) -> None:
    found = [pauses(POLICY, draw)[-retries_left] for draw in DRAWS]

    assert found == sorted(set(found))


def test_every_error_of_the_engine_seam_is_in_the_table() -> None:
    assert {error.code for error in EngineError.__subclasses__()} <= set(MAY_RETRY)
