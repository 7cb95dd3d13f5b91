"""The first part of `benchmarks.api`: what a submission costs, and what plain RQ's costs.

Two servers with the same gunicorn configuration, one web process each; each gets the same requests
in turn: ours, plain, plain, ours is a pair. Redis holds what a worker tells at its heartbeat (a
model, rates, five hundred scores), so that our door looks at the line, estimates and decides as it
does in earnest.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from benchmarks.api_servers import PLAIN, SLALOM, Server, answers, serving, start_load
from config import connections
from config.settings import load
from scheduler import models, rates, scores
from scheduler.rates import Moments, TierRates, WorkerRates
from scheduler.scores import MEMORY_SCORES, MOST_SCORES, Scored

QUEUE, TIER = "low", "batch"
CLIENTS = 8
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of requests took."""

    cpu_ms: float
    per_s: float
    p50_ms: float
    p99_ms: float


def worker_heard(connection: Redis) -> None:
    """Write what a worker that has run thousands of jobs tells of itself."""
    name = load().served_model
    models.announce(connection, models.ModelView(name, 4096, "sim", 0.0))
    connection.sadd("rq:workers", "rq:worker:w")
    many = Moments(500.0, 4000.0, 36_000.0)
    tier = TierRates(output=many, share=Moments(500.0, 500.0, 500.0), first_token_s=many)
    learnt = WorkerRates(
        most={"high": 192, QUEUE: 192},
        busy_s=60.0,
        jobs=30_000.0,
        work=250_000.0,
        tiers={TIER: tier},
    )
    rates.publish(connection, "w", learnt, ttl_s=3600)
    for report in range(MEMORY_SCORES // MOST_SCORES):
        scored = Scored([(n / 50, n / 40) for n in range(report, report + MOST_SCORES)])
        scores.publish(connection, {QUEUE: scored})


def turn(server: Server, requests: int, clients: int = CLIENTS) -> Turn:
    """Return what so many submissions took."""
    before = server.cpu_s()
    clients_process = start_load("submit", server.port, requests, "--clients", str(clients))
    found = answers(clients_process, requests, 202)
    cpu_s = server.cpu_s() - before
    took = sorted(answer["done_at"] - answer["sent_at"] for answer in found)
    begun, ended = min(a["sent_at"] for a in found), max(a["done_at"] for a in found)
    return Turn(
        cpu_ms=cpu_s / requests * 1e3,
        per_s=requests / (ended - begun),
        p50_ms=took[requests // 2] * 1e3,
        p99_ms=took[int(requests * 0.99)] * 1e3,
    )


def measure(
    url: str, directory: Path, pairs: int, requests: int, flags: Sequence[str] = ()
) -> dict[str, float]:
    """Return the figures."""
    connection = connections.commands(url)
    worker_heard(connection)
    measured: list[tuple[Turn, Turn]] = []
    with (
        serving(SLALOM, url, directory / "web.log", flags) as ours,
        serving(PLAIN, url, directory / "plain.log", flags) as plain,
    ):
        for server in (ours, plain):
            turn(server, WARM_UP)
        for _ in range(pairs):
            first, *plains, last = [turn(s, requests) for s in (ours, plain, plain, ours)]
            measured.append((_mean(first, last), _mean(*plains)))
            line = "submit: ours {0.cpu_ms:.2f} ms CPU, {0.per_s:.0f}/s; plain {1.cpu_ms:.2f} ms, "
            print((line + "{1.per_s:.0f}/s").format(*measured[-1]), file=sys.stderr)
    return _figures(measured)


def _mean(*turns: Turn) -> Turn:
    return Turn(
        statistics.fmean(t.cpu_ms for t in turns),
        statistics.harmonic_mean([t.per_s for t in turns]),
        statistics.fmean(t.p50_ms for t in turns),
        statistics.fmean(t.p99_ms for t in turns),
    )


def _figures(measured: list[tuple[Turn, Turn]]) -> dict[str, float]:
    median = statistics.median
    return {
        "submit_cost_vs_plain_rq": median(ours.cpu_ms / plain.cpu_ms for ours, plain in measured),
        "submit_time_vs_plain_rq": median(plain.per_s / ours.per_s for ours, plain in measured),
        "submit_cpu_ms": median(ours.cpu_ms for ours, _ in measured),
        "plain_cpu_ms": median(plain.cpu_ms for _, plain in measured),
        "submits_per_core_s": median(1e3 / ours.cpu_ms for ours, _ in measured),
        "submits_per_s": median(ours.per_s for ours, _ in measured),
        "plain_submits_per_s": median(plain.per_s for _, plain in measured),
        "submit_p50_ms": median(ours.p50_ms for ours, _ in measured),
        "submit_p99_ms": median(ours.p99_ms for ours, _ in measured),
        "plain_p50_ms": median(plain.p50_ms for _, plain in measured),
        "plain_p99_ms": median(plain.p99_ms for _, plain in measured),
    }
