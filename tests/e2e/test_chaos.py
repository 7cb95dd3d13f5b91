"""Accepted means ended once, whatever is killed, and whenever.

2,000 sums are accepted, then the worker, the maintenance process and Redis are killed with SIGKILL
at random instants and replaced. Redis also loses a part of its last second, as one that syncs once
a second does in a power cut (ours syncs at every reply); a worker sleeps past its lease and wakes
up beside its successor; vLLM loses its EngineCore. At the end each job has one result, the right
one, and is in no list but the finished ones.

Any instant may be hit, even when a job runs alone that was hit twice before: its third death would
make it a dead letter by design, as `test_engine_death` proves, so the number of deaths that a job
may survive is put out of reach here.

A failure prints its seed. By hand, with another seed or as many kills of the worker as wanted:

    CHAOS_SEED=7 CHAOS_KILLS=20 make test ARGS='-s -k chaos'
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from rq.suspension import resume, suspend

from models.sums import held_out_sums
from tests.conftest import until
from tests.e2e.ledger import ADDER, COROUTINE, PLAIN, SIMULATED, Kind, Ledger
from tests.e2e.victims import GIVE_UP_S, Victims
from tests.integration.test_embedded_redis import free_port

NUM_JOBS = 2_000
SETTINGS = {"SLALOM_LEASE_S": "1", "SLALOM_MAX_INFLIGHT": "32", "SLALOM_MAX_DELIVERIES": "1000"}

Strike = Callable[[Victims], None]


def kill(name: str) -> Strike:
    return lambda victims: victims.kill(name)


ONCE_EACH = [kill("maintenance"), kill("redis"), Victims.cut_power]


def num_kills(default: int) -> int:
    return int(os.environ.get("CHAOS_KILLS", default))


@pytest.fixture
def random() -> Random:
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))
    sys.stdout.write(f"CHAOS_SEED={seed}\n")
    return Random(seed)


@pytest.fixture
def victims(request: pytest.FixtureRequest, tmp_path: Path, random: Random) -> Iterator[Victims]:
    victims = Victims(tmp_path, free_port(), random, {**SETTINGS, "SLALOM_ENGINE": request.param})
    try:
        victims.start_all()
        yield victims
    finally:
        victims.clear()


def accept(victims: Victims, kinds: list[Kind]) -> Ledger:
    """Return 2,000 jobs of both queues, all of them safe in the append-only file."""
    suspend(victims.connection)
    ledger = Ledger(victims.connection, kinds, held_out_sums(NUM_JOBS))
    resume(victims.connection)
    victims.sync()
    return ledger


def wreak(victims: Victims, ledger: Ledger, strikes: list[Strike], random: Random) -> None:
    """Strike in random order, each time when a random number of jobs has ended."""
    random.shuffle(strikes)
    instants = sorted(random.sample(range(len(ledger) * 9 // 10), len(strikes)))
    for num_ended, strike in zip(instants, strikes, strict=True):
        until(lambda at=num_ended: ledger.num_ended >= at, GIVE_UP_S)
        time.sleep(random.uniform(0, 0.05))  # at any instant between two looks
        ledger.note_in_flight()
        strike(victims)
    until(lambda: ledger.num_ended == len(ledger), GIVE_UP_S)


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["sim"], indirect=True)
def test_2000_accepted_jobs_each_end_once_whatever_is_killed(
    victims: Victims, random: Random
) -> None:
    ledger = accept(victims, [PLAIN, COROUTINE, SIMULATED])

    strikes = [Victims.stall_worker, *[kill("worker")] * num_kills(20), *ONCE_EACH]
    wreak(victims, ledger, strikes, random)

    ledger.audit()
    assert victims.stop() == {"worker": 0, "maintenance": 0, "redis": 0}


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("victims", ["vllm"], indirect=True)
def test_vllm_answers_2000_accepted_sums_once_each_whatever_is_killed(
    victims: Victims, random: Random
) -> None:
    ledger = accept(victims, [ADDER])

    strikes = [Victims.kill_engine, *[kill("worker")] * num_kills(2), *ONCE_EACH]
    wreak(victims, ledger, strikes, random)

    ledger.audit()
    assert victims.stop() == {"worker": 0, "maintenance": 0, "redis": 0}
