"""What a long queue costs: claims and submissions beside up to a million waiting jobs.

Each level is a queue of jobs of a batch tier in a server of its own. Single submissions, looks at
the line before a job in the middle, and claims of 16 jobs are timed, each from its first byte to
its reply, ROUND times at one level, then at the next, and so on: what else the machine does
meanwhile is shared by all. The claimed jobs are handed back, not timed, so that the level stays.
Memory is Redis's own `used_memory`, over the jobs added or ended.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

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
ROUND = 20

T = TypeVar("T")


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


class Line:
    """A queue of so many waiting jobs, in a server of its own."""

    def __init__(self, url: str, level: int) -> None:
        self.level = level
        self.connection = connections.commands(url)
        self.submitter = Submitter(self.connection, Settings(redis_url=url).tiers())
        once = connections.commands_like(self.connection, repeat=False)
        self.claims = Claims(once, "w", [QUEUE], 600.0)
        self.took: dict[str, list[float]] = {"submit": [], "look": [], "claim": []}
        empty = used_memory(self.connection)
        fill(self.connection, level)
        self.bytes_per_job = (used_memory(self.connection) - empty) / level
        queue = Queue(QUEUE, connection=self.connection)
        self._middle = queue.get_job_ids(level // 2, 1)[0]

    def round(self, times: int) -> None:
        """Time each of the three so many times; hand back what was claimed."""
        for _ in range(times):
            self._time("submit", lambda: self.submitter.submit(REQUEST, tier=TIER))
            self._time("look", lambda: look(self.connection, [QUEUE], QUEUE, self._middle))
            self.claims.release(self._time("claim", lambda: self.claims.take(CLAIM)))

    def _time(self, name: str, call: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = call()
        self.took[name].append(time.perf_counter() - begun)
        return result

    def quantile_ms(self, name: str, share: float) -> float:
        """Return how long at most so large a share of the calls took."""
        took = sorted(self.took[name])
        return took[int(len(took) * share)] * 1e3


def measure(lines: list[Line], times: int) -> dict[str, float]:
    """Return all figures."""
    for _ in range(times // ROUND):
        for line in lines:
            line.round(ROUND)
    figures: dict[str, float] = {}
    for line in lines:
        told = [f"{line.level:>9,} waiting"]
        for name in line.took:
            p50, p99 = line.quantile_ms(name, 0.5), line.quantile_ms(name, 0.99)
            figures |= {f"{name}_p50_ms_{line.level}": p50, f"{name}_p99_ms_{line.level}": p99}
            told.append(f"{name} {p50:.2f}, {p99:.2f} ms")
        print("; ".join([*told, f"{line.bytes_per_job:.0f} B a job"]), file=sys.stderr)
    for name in ("claim", "submit", "look"):
        for p in ("p50", "p99"):
            least, most = (figures[f"{name}_{p}_ms_{line.level}"] for line in (lines[0], lines[-1]))
            figures[f"{name}_{p}_growth"] = most / least
    longest = lines[-1]
    added = bytes_per_finished_job(longest.connection, longest.claims, 1600)
    return figures | {
        "bytes_per_waiting_job": longest.bytes_per_job,
        "bytes_per_finished_job": longest.bytes_per_job + added,
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
        ExitStack() as servers,
    ):
        lines = []
        for level in args.levels:
            server = embedded_redis.running(Path(directory) / str(level))
            lines.append(Line(servers.enter_context(server), level))
        figures = measure(lines, args.times)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
