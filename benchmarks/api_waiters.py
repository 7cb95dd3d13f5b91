"""The second part of `benchmarks.api`: thousands of clients that wait at once.

Every client has a connection of its own and waits for its job (`Prefer: wait`). This process claims
their jobs as a worker does and ends them: first one at a time with pauses, while all others wait;
then, half of the rest behind it, submissions are measured again; then the rest ends at once. A
wake-up lasts from the call of the script that finishes the job, a millisecond or so before it
publishes, to the last byte at the client.
"""

import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from redis import Redis

from benchmarks.api_load import Answer
from benchmarks.api_servers import SLALOM, Server, answers, serving, start_load
from benchmarks.api_submits import CLIENTS, QUEUE, turn
from config import connections
from scheduler import finish
from scheduler.claim import Claim, Claims
from scheduler.finish import Success

PAUSE_S = 0.02
SINGLE = 500
BATCH = 128
IDLE_S = 5.0
PATIENCE_S = 120.0
WORKER = "benchmark"
ANSWER = {
    "choices": [{"index": 0, "text": "384", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12},
}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def end(connection: Redis, claims: Sequence[Claim]) -> dict[str, float]:
    """End jobs in one step; return the instant of the call for each."""
    now = datetime.now(UTC)
    successes = [Success(claim, ANSWER, now, result_ttl=600) for claim in claims]
    called_at = time.monotonic()
    verdicts = finish.write(connection, WORKER, successes)
    assert set(verdicts) == {"written"}, verdicts
    return {claim.job.id: called_at for claim in claims}


def taken(connection: Redis, claims: Claims, count: int) -> list[Claim]:
    """Wait until `count` jobs are queued, and claim them."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (queued := connection.llen(f"rq:queue:{QUEUE}")) < count:
        assert time.monotonic() < give_up_at, f"only {queued} of {count} clients came to wait"
        time.sleep(0.1)
    return [claim for at in range(0, count, BATCH) for claim in claims.take(min(BATCH, count - at))]


def wake_ups_ms(ended: dict[str, float], found: Sequence[Answer]) -> list[float]:
    """Return how long after its end each of these jobs was at its client."""
    return [(a["done_at"] - ended[a["id"]]) * 1e3 for a in found if a["id"] in ended]


def measure(
    url: str, directory: Path, waiters: int, flags: Sequence[str], *load_flags: str
) -> dict[str, float]:
    """Return the figures."""
    environment = {"SLALOM_MAX_WAIT_S": "600"}
    with serving(SLALOM, url, directory / "web.log", flags, **environment) as server:
        connection = connections.commands(url)
        connection.delete(f"rq:queue:{QUEUE}")
        fast = connections.commands_like(connection, repeat=False)
        turn(server, 500)
        connection.delete(f"rq:queue:{QUEUE}")
        before_kib = server.memory_kib()
        clients = start_load("wait", server.port, waiters, *load_flags)
        claims = taken(connection, Claims(fast, WORKER, [QUEUE], 3600.0), waiters)
        figures = _while_all_wait(server, waiters, before_kib)
        single = _ended_singly(connection, claims[:SINGLE])
        figures |= _submits_beside(server)
        burst = _ended_at_once(connection, claims[SINGLE:])
        found = answers(clients, waiters, 200)
    return figures | _wake_ups(single, burst, found)


def _while_all_wait(server: Server, waiters: int, before_kib: float) -> dict[str, float]:
    """Return what it costs that so many wait, while nothing happens."""
    before_s = server.cpu_s()
    time.sleep(IDLE_S)
    cpu = (server.cpu_s() - before_s) / IDLE_S
    grown_kib = server.memory_kib() - before_kib
    text = f"{waiters} wait: {grown_kib / waiters:.1f} KiB each, {server.threads()} threads, "
    print(f"{text}{cpu:.1%} of a core", file=sys.stderr)
    return {
        "waiting_clients": waiters,
        "memory_per_waiter_kib": grown_kib / waiters,
        "waiting_cpu_share": cpu,
    }


def _ended_singly(connection: Redis, claims: Sequence[Claim]) -> dict[str, float]:
    rng = random.Random(7)
    ended: dict[str, float] = {}
    for claim in claims:
        time.sleep(rng.expovariate(1 / PAUSE_S))
        ended |= end(connection, [claim])
    return ended


def _submits_beside(server: Server) -> dict[str, float]:
    """Return what submissions cost while most of the clients still wait."""
    beside = turn(server, 1000, CLIENTS)
    return {"submits_per_s_beside_waiters": beside.per_s, "submit_cpu_ms_beside": beside.cpu_ms}


def _ended_at_once(connection: Redis, claims: Sequence[Claim]) -> dict[str, float]:
    ended: dict[str, float] = {}
    for at in range(0, len(claims), BATCH):
        ended |= end(connection, claims[at : at + BATCH])
    return ended


def _wake_ups(
    single: dict[str, float], burst: dict[str, float], found: Sequence[Answer]
) -> dict[str, float]:
    alone, together = wake_ups_ms(single, found), wake_ups_ms(burst, found)
    last_at = max(a["done_at"] for a in found if a["id"] in burst)
    line = f"wake-up p50 {percentile(alone, 0.5):.1f} ms, p99 {percentile(alone, 0.99):.1f} ms"
    print(line, file=sys.stderr)
    return {
        "wakeup_p50_ms": percentile(alone, 0.5),
        "wakeup_p99_ms": percentile(alone, 0.99),
        "burst": len(burst),
        "burst_wakeup_p50_ms": percentile(together, 0.5),
        "burst_wakeup_p99_ms": percentile(together, 0.99),
        "burst_answers_per_s": len(burst) / (last_at - min(burst.values())),
    }
