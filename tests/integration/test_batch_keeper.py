"""Keepers work off batches side by side, and take over from one another."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from redis import Redis

from config import connections
from config.settings import Settings
from scheduler import batch_advance, batch_keeper
from scheduler.batch_advance import Means
from scheduler.batch_keeper import BatchKeeper
from tests.batch_life import (
    Desk,
    QuickWorker,
    assert_each_once,
    jsonl,
    line,
    traces,
)
from tests.conftest import until

pytestmark = pytest.mark.usefixtures("always_looks")


@pytest.fixture
def keeping(means: Means, settings: Settings) -> Iterator[Callable[[int], None]]:
    """Start keepers; each is told to stop at the end."""
    stop, threads = threading.Event(), []

    def start(count: int) -> None:
        for _ in range(count):
            connection = connections.commands(settings.redis)
            own = replace(means, connection=connection)
            keeper = BatchKeeper(own, connections.listener(settings.redis))
            threads.append(threading.Thread(target=keeper.run, args=(stop,)))
            threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def ended(desk: Desk, batch_id: str) -> bool:
    return desk.batch(batch_id).has_ended


def test_two_keepers_share_the_batches_and_do_each_line_once(
    connection: Redis, desk: Desk, quick: QuickWorker, keeping: Callable[[int], None]
) -> None:
    ids = [str(n) for n in range(150)]
    made = [desk.create(jsonl(map(line, ids))) for _ in range(4)]

    keeping(2)
    until(lambda: (quick.serve(), all(ended(desk, batch_id) for batch_id in made))[1])

    for batch_id in made:
        assert_each_once(ids, desk.output(batch_id))
    assert quick.num_answered == 600
    until(lambda: all(traces(connection, batch_id) == set() for batch_id in made))


def test_what_a_dead_keeper_held_another_takes_over(
    connection: Redis,
    desk: Desk,
    quick: QuickWorker,
    keeping: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch_id = desk.create(jsonl(line(str(n)) for n in range(100)))
    dead = BatchKeeper(desk.means, connections.listener_like(connection))
    dead.work()
    assert connection.ttl(f"slalom:batch:{batch_id}:lease") <= batch_keeper.LEASE_S
    connection.pexpire(f"slalom:batch:{batch_id}:lease", 300)

    keeping(1)
    until(lambda: (quick.serve(), ended(desk, batch_id))[1])

    assert desk.batch(batch_id).progress.completed == 100


def test_a_batch_whose_steps_fail_does_not_hold_up_the_others(
    connection: Redis, desk: Desk, quick: QuickWorker, keeping: Callable[[int], None]
) -> None:
    damaged = desk.create(jsonl([line("a")]))
    connection.hset(f"slalom:batch:{damaged}", "progress", "{")
    sound = desk.create(jsonl([line("a")]))

    keeping(1)
    until(lambda: (quick.serve(), ended(desk, sound))[1])

    assert desk.batch(sound).progress.status == "completed"


def test_news_that_a_job_ended_wakes_its_batch(
    connection: Redis,
    desk: Desk,
    quick: QuickWorker,
    keeping: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_advance, "LOOK_EVERY_S", 3_600.0)
    monkeypatch.setattr(batch_advance, "IDLE_S", 3_600.0)
    batch_id = desk.create(jsonl(line(str(n)) for n in range(30)))
    keeping(1)
    until(lambda: desk.num_open(batch_id) == 30)

    until(lambda: (quick.serve(10), ended(desk, batch_id))[1])

    assert desk.batch(batch_id).progress.completed == 30
