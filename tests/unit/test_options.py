"""What numbers on RQ's command line come to."""

import signal

import pytest
from rq.defaults import DEFAULT_JOB_MONITORING_INTERVAL, DEFAULT_WORKER_TTL

from gpu_worker import options


@pytest.mark.parametrize(
    ("interval", "lease_s", "pause_s"),
    [
        (DEFAULT_JOB_MONITORING_INTERVAL, 30.0, 10.0),
        (5, 30.0, 5.0),
        (600, 30.0, 10.0),
        (0, 30.0, 1),
    ],
)
def test_heartbeats_come_as_asked_and_often_enough(
    interval: int, lease_s: float, pause_s: float
) -> None:
    assert options.heartbeat_s(interval, lease_s) == pause_s


@pytest.mark.parametrize(("worker_ttl", "kept_s"), [(DEFAULT_WORKER_TTL, 60), (100, 160)])
def test_a_record_outlives_its_worker_by_two_leases_or_as_asked(
    worker_ttl: int, kept_s: int
) -> None:
    assert options.record_s(worker_ttl, 30.0) == kept_s


@pytest.mark.parametrize(
    ("signum", "since_s", "is_echo"),
    [
        (signal.SIGINT, 0.2, True),
        (signal.SIGINT, 2.0, False),
        (signal.SIGINT, float("inf"), False),
        (signal.SIGTERM, 0.2, False),
    ],
)
def test_only_an_int_right_after_a_signal_is_its_echo(
    signum: int, since_s: float, is_echo: bool
) -> None:
    assert options.is_echo(signum, since_s) == is_echo
