"""What a long queue costs: claims and submissions beside up to a million waiting jobs.

At each level the queue is filled with jobs of a batch tier; then single submissions, looks at the
line before a job in the middle, and claims of 16 jobs, are timed, each from its first byte to its
reply. The claimed jobs are handed back, not
timed, so that the level stays. Memory is Redis's own `used_memory`, over the jobs added or ended.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks import report
from config import connections, embedded_redis
from config.settings import Settings
from scheduler.claim import Claims
from scheduler.finish import Success, write
from scheduler.jobs import FUNCTION, Request
from scheduler.line import look
from scheduler.submit import Submitter

NAME = "queue_scale"
QUEUE, TIER = "low", "batch"
REQUEST = Request(endpoint="/v1/completions", body={"prompt": "128+256=", "max_tokens": 8})
CHUNK = 5_000
CLAIM = 16


def fill(connection: Redis, level: int) -> None:
    """Add jobs until `level` wait."""
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    meta = {"tier": TIER, "tenant": "default", "metadata": {}}
    while (missing := level - queue.count) > 0:
        data = [
            Queue.prepare_data(FUNCTION, args=(REQUEST,), timeout=600, result_ttl=600, meta=meta)
            for _ in range(min(missing, CHUNK))
        ]
        queue.enqueue_many(data)
    _until_settled(connection)


def _until_settled(connection: Redis) -> None:
    """Wait for the rewrite of Redis's file that the filling set off: it has the disk to itself."""
    while connection.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.1)


def p99_ms(call: Callable[[], object], times: int) -> float:
    """Return the 99th percentile of a call's duration."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return sorted(took)[int(times * 0.99)] * 1e3


def claim_p99_ms(claims: Claims, times: int) -> float:
    """Return the 99th percentile of claims, each handed back at once."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        taken = claims.take(CLAIM)
        took.append(time.perf_counter() - begun)
        claims.release(taken)
    return sorted(took)[int(times * 0.99)] * 1e3


def used_memory(connection: Redis) -> int:
    """Return the bytes that Redis's data takes."""
    return int(connection.info("memory")["used_memory"])


def bytes_per_finished_job(connection: Redis, claims: Claims, jobs: int) -> float:
    """Return what an ended job takes beyond nothing: the waiting one's bytes are freed into it."""
    before = used_memory(connection)
    for _ in range(jobs // CLAIM):
        taken = claims.take(CLAIM)
        value = {"choices": [{"text": "384"}], "usage": {"total_tokens": 13}}
        write(connection, "w", [Success(c, value, datetime.now(UTC), 600) for c in taken])
    return (used_memory(connection) - before) / jobs


def measure(url: str, levels: list[int], times: int) -> dict[str, float]:
    """Return all figures."""
    connection = connections.commands(url)
    submitter = Submitter(connection, Settings(redis_url=url).tiers())
    claims = Claims(connections.commands_like(connection, repeat=False), "w", [QUEUE], 600.0)
    figures: dict[str, float] = {}
    empty = used_memory(connection)
    for level in levels:
        fill(connection, level)
        waiting = (used_memory(connection) - empty) / level
        submit_ms = p99_ms(lambda: submitter.submit(REQUEST, tier=TIER), times)
        middle = Queue(QUEUE, connection=connection).get_job_ids(level // 2, 1)[0]
        look_ms = p99_ms(partial(look, connection, [QUEUE], QUEUE, middle), times)
        claim_ms = claim_p99_ms(claims, times)
        figures |= {f"submit_p99_ms_{level}": submit_ms, f"claim_p99_ms_{level}": claim_ms}
        figures[f"look_p99_ms_{level}"] = look_ms
        line = f"submit p99 {submit_ms:.2f} ms, look p99 {look_ms:.2f} ms, "
        line += f"claim p99 {claim_ms:.2f} ms, {waiting:.0f} B a job"
        print(f"{level:>9,} waiting: {line}", file=sys.stderr)
    for name in ("claim", "submit"):
        first, last = figures[f"{name}_p99_ms_{levels[0]}"], figures[f"{name}_p99_ms_{levels[-1]}"]
        figures[f"{name}_p99_growth"] = last / first
    added = bytes_per_finished_job(connection, claims, 1600)
    return figures | {
        "bytes_per_waiting_job": waiting,
        "bytes_per_finished_job": waiting + added,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    levels = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--levels", type=int, nargs="+", default=levels)
    parser.add_argument("--times", type=int, default=1_000, help="calls timed at each level")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
    ):
        figures = measure(url, args.levels, args.times)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
