"""How good the estimates are that jobs get at submission.

A worker with the simulated engine, as a process of its own, and a Redis server on loopback, which
keeps nothing on disk here. Lengths follow the quantiles of the conversations in Azure's LLM
inference trace of 2023, a tenth of its prompts and a quarter of its outputs; a request asks for 32
to 512 tokens, up to four times what its answer will have, which only the engine knows. Jobs come
steadily, a tenth of them high, and in bursts, the next one once few wait: at any speed of the
machine between some 20 and some 300 jobs wait. After a phase that calibrates, what each low job
with at least 20 before it was told is compared with its wait until the claim.

Two baselines on the same jobs: the forecast as it is without calibration, and the mean time from a
job's claim to its end, times the position, over the jobs that a worker holds.
"""

import argparse
import bisect
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from benchmarks import report
from benchmarks.engine_efficiency import worker
from config import connections, embedded_redis
from config.settings import Settings
from scheduler import jobs
from scheduler.estimate import Outlook, quantile_s
from scheduler.estimator import Estimator
from scheduler.jobs import Request
from scheduler.submit import Submitter

NAME = "eta"
QUEUE, HIGH, LOW = "low", "premium", "batch"
STEADY = 0.4
"""Share of what the worker can do that comes steadily, once that is known."""
FIRST_PER_S = 10.0
FEW = 50
"""Waiting jobs below which a burst comes."""
BURSTS = (60, 260)
LEAST_WAITING = 20
SHARES = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
PROMPT = (1, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050)
OUTPUT = (4, 41, 54, 85, 129, 395, 424, 451, 601, 1000)
"""Quantiles in tokens."""
PROMPT_SCALE, OUTPUT_SCALE = 0.1, 0.25
LIMITS = (32, 64, 128, 256, 512)


def drawn(rng: random.Random, quantiles: tuple[int, ...]) -> float:
    """Return a value of the distribution with these quantiles."""
    share = rng.random()
    at = min(max(1, bisect.bisect(SHARES, share)), len(SHARES) - 1)
    within = (share - SHARES[at - 1]) / (SHARES[at] - SHARES[at - 1])
    return quantiles[at - 1] + within * (quantiles[at] - quantiles[at - 1])


def request(rng: random.Random) -> Request:
    """Return a request whose answer has a length that only the engine knows."""
    prompt = "word" * max(1, round(PROMPT_SCALE * drawn(rng, PROMPT)))
    output = max(1, round(OUTPUT_SCALE * drawn(rng, OUTPUT)))
    limit = next(limit for limit in LIMITS if limit >= rng.uniform(1, 2) * output)
    body = {"prompt": prompt, "max_tokens": limit, "simulate": output}
    return Request(endpoint="/v1/completions", body=body)


@dataclass(frozen=True, slots=True)
class Told:
    """What a job was told when it came (s), and what the mean service time would have said."""

    job_id: str
    outlook: Outlook
    start: tuple[float, float]
    finish: tuple[float, float]
    by_mean_service: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What a job was told, and how long it took to start and to finish (s)."""

    told: Told
    start: float
    finish: float


@dataclass
class Load:
    """Submits jobs, and remembers what those were told that had to wait."""

    connection: Redis
    estimator: Estimator
    submitter: Submitter
    rng: random.Random
    told: list[Told] = field(default_factory=list)
    steady_per_s: float = FIRST_PER_S

    def run(self, seconds: float) -> None:
        """Submit for this long."""
        next_at = time.monotonic()
        ends_at = next_at + seconds
        while (now := time.monotonic()) < ends_at:
            if now >= next_at:
                next_at = now + self.rng.expovariate(self.steady_per_s)
                self.submit(HIGH if self.rng.random() < 0.1 else LOW)
            elif self.connection.llen(f"rq:queue:{QUEUE}") < FEW:
                for _ in range(self.rng.randint(*BURSTS)):
                    self.submit(LOW)
            else:
                time.sleep(min(0.01, next_at - now))

    def submit(self, tier: str) -> None:
        """Submit one job."""
        wanted = request(self.rng)
        outlook = self.estimator.before(wanted, tier)
        job = self.submitter.submit(wanted, tier=tier, outlook=outlook)
        if outlook.rate:
            self.steady_per_s = STEADY * outlook.rate / self.estimator.rates(QUEUE).mean_work
        p50, p90, finish = outlook.start_s(0.5), outlook.start_s(0.9), outlook.finish_s
        if tier != LOW or (outlook.position or 0) < LEAST_WAITING or p50 is None or p90 is None:
            return
        finishes = finish(0.5) or 0.0, finish(0.9) or 0.0
        naive = self.by_mean_service(outlook)
        self.told.append(Told(job.id, outlook, (p50, p90), finishes, naive))

    def by_mean_service(self, outlook: Outlook) -> float:
        """Return the mean time in a worker times the position, over what the worker holds."""
        rates = self.estimator.rates(QUEUE)
        tier = rates.tier(LOW)
        service = (tier.first_token_s.mean or 0.0) + (tier.token_s.mean or 0.0) * (
            tier.output.mean or 0.0
        )
        return (outlook.position or 0) * service / sum(w.most[QUEUE] for w in rates.workers)


def outcomes(connection: Redis, told: list[Told]) -> list[Sample]:
    """Return what became of the jobs, once none is left."""
    while connection.llen(f"rq:queue:{QUEUE}") or connection.zcard(f"rq:wip:{QUEUE}"):
        time.sleep(0.1)
    samples = []
    for job in told:
        done = jobs.fetch(connection, job.job_id)
        assert done.started_at
        assert done.ended_at
        start, finish = (at.timestamp() - job.outlook.at for at in (done.started_at, done.ended_at))
        samples.append(Sample(job, start, finish))
    return samples


def error(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the median of the relative error."""
    return statistics.median(abs(said - was) / was for said, was in pairs)


def share(pairs: Iterable[tuple[float, float]]) -> float:
    """Return how often what was did not exceed what was said."""
    return statistics.fmean(was <= said for said, was in pairs)


def figures_of(samples: list[Sample]) -> dict[str, float]:
    """Return the figures."""
    raw = [(s.told.outlook.forecast.start, s.start) for s in samples if s.told.outlook.forecast]
    return {
        "jobs": len(samples),
        "waiting_p50": statistics.median(s.told.outlook.position or 0 for s in samples),
        "wait_p50_s": statistics.median(s.start for s in samples),
        "eta_p50_error": error((s.told.start[0], s.start) for s in samples),
        "eta_p50_coverage": share((s.told.start[0], s.start) for s in samples),
        "eta_p90_coverage": share((s.told.start[1], s.start) for s in samples),
        "eta_p90_over_p50": statistics.median(s.told.start[1] / s.told.start[0] for s in samples),
        "finish_p50_error": error((s.told.finish[0], s.finish) for s in samples),
        "finish_p90_coverage": share((s.told.finish[1], s.finish) for s in samples),
        "uncalibrated_p50_error": error((span.mean, was) for span, was in raw),
        "uncalibrated_p90_coverage": share((quantile_s(span, (), 0.9), was) for span, was in raw),
        "mean_service_p50_error": error((s.told.by_mean_service, s.start) for s in samples),
    }


def measure(url: str, args: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    connection = connections.commands(url)
    connection.config_set("appendonly", "no")
    tiers = Settings(redis_url=url).tiers()
    estimator, submitter = Estimator(connection, tiers), Submitter(connection, tiers)
    load = Load(connection, estimator, submitter, random.Random(args.seed))
    environment = {"REDIS_URL": url, "SLALOM_ENGINE": "sim", "SLALOM_LOG_LEVEL": "ERROR"}
    with worker(connection, environment):
        load.run(args.calibrate_s)
        print(f"calibrated with {len(load.told)} jobs that waited", file=sys.stderr)
        load.told.clear()
        load.run(args.measure_s)
        return figures_of(outcomes(connection, load.told))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calibrate-s", type=float, default=60.0)
    parser.add_argument("--measure-s", type=float, default=120.0)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
    ):
        figures = measure(url, args)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
