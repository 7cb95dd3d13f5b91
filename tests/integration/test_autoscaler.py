"""The autoscaler starts real workers, drains them without losing a job, and finds them again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from config.settings import Settings
from config.tiers import TierTable
from scheduler import workers
from scheduler.autoscaler.__main__ import Autoscaler
from scheduler.autoscaler.local_pool import LocalPool
from scheduler.starting import announced, starting
from scheduler.submit import Submitter
from tests.conftest import until
from tests.integration.test_worker import LONG, SHORT, all_ended


@pytest.fixture
def table(tiers: TierTable) -> TierTable:
    """Low thresholds: a worker is added above 5 jobs per worker and drained at once below 2."""
    content = tiers.model_dump()
    rule = {"scale_up_at": 5, "scale_down_at": 2, "min_workers": 0, "cooldown_s": 0}
    content["queues"]["high"]["autoscale"] = None
    content["queues"]["low"]["autoscale"] |= rule
    return TierTable.model_validate(content)


@pytest.fixture
def pool_directory(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv("REDIS_URL", settings.redis)
    monkeypatch.setenv("SLALOM_ENGINE", "sim")
    yield tmp_path / "pool"
    for worker in LocalPool(tmp_path / "pool").workers():
        if process := worker.process():
            process.kill()


def test_a_deep_queue_gets_workers_up_to_the_maximum_and_loses_them_when_empty(
    connection: Redis, submitter: Submitter, table: TierTable, pool_directory: Path
) -> None:
    ids = [submitter.submit(SHORT, tier="batch").id for _ in range(60)]
    pool = LocalPool(pool_directory)
    autoscaler = Autoscaler(connection, table, pool)

    for now in range(5):
        autoscaler.tick(float(now))

    assert len(pool.workers()) == 2
    until(lambda: all_ended(connection, ids))
    until(lambda: len(workers.alive(connection, "low")) == 2)
    now = 10.0

    def drained() -> bool:
        nonlocal now
        now += 1
        autoscaler.tick(now)
        return not pool.workers()

    until(drained)


def test_a_new_autoscaler_adopts_the_workers_of_one_that_was_killed(
    connection: Redis, submitter: Submitter, table: TierTable, pool_directory: Path
) -> None:
    for _ in range(60):
        submitter.submit(LONG, tier="batch")
    first = LocalPool(pool_directory)
    Autoscaler(connection, table, first).tick(0.0)
    [worker] = first.workers()

    second = LocalPool(pool_directory)
    autoscaler = Autoscaler(connection, table, second)
    for now in range(4):
        autoscaler.tick(float(now))

    assert worker in second.workers()
    assert len(second.workers()) == 2
    for ours in second.workers():
        process = ours.process()
        assert process is not None
        process.send_signal(signal.SIGKILL)
    first._children[worker.name].wait()
    until(lambda: not second.workers())
    assert list(pool_directory.iterdir()) == []


def test_closing_drains_every_worker(
    connection: Redis, submitter: Submitter, table: TierTable, pool_directory: Path
) -> None:
    ids = [submitter.submit(SHORT, tier="batch").id for _ in range(60)]
    pool = LocalPool(pool_directory)
    autoscaler = Autoscaler(connection, table, pool)
    autoscaler.tick(0.0)
    until(lambda: all_ended(connection, ids))

    autoscaler.close(drain_s=60)

    assert pool.workers() == []


def test_a_record_that_cannot_be_read_is_dropped(pool_directory: Path) -> None:
    pool = LocalPool(pool_directory)
    (pool_directory / "auto-low-1.json").write_text("{", encoding="utf-8")
    (pool_directory / "auto-low-2.json").write_text('{"name": "x"}', encoding="utf-8")

    assert pool.workers() == []
    assert list(pool_directory.iterdir()) == []


def test_a_worker_whose_engine_still_starts_counts_as_one(
    connection: Redis, tiers: TierTable, pool_directory: Path
) -> None:
    pool = LocalPool(pool_directory)
    autoscaler = Autoscaler(connection, tiers, pool)  # at least one worker for every queue

    with announced(connection, "fast", ["high", "low"]):
        until(lambda: starting(connection, "low") == {"fast"})
        autoscaler.tick(0.0)
        assert pool.workers() == []

    assert starting(connection, "low") == set()
    autoscaler.tick(1.0)
    assert len(pool.workers()) == 1
    autoscaler.close(drain_s=60)
