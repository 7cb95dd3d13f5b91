"""How much of the engine reaches jobs that come through the queue.

Tokens per second of jobs through RQ, GPUWorker and vLLM, over tokens per second of the same prompts
given to `AsyncLLM.generate` all at once: same engine settings, same event loop, same run, median of
the pairs. A pair is direct, queue, queue, direct, so that a machine that grows slower or faster
meanwhile favours neither. The worker is a process of its own, started as in the Procfile; every job
asks for the same number of tokens (`ignore_eos`), so that nothing but time differs: 129, the median
answer of the conversations in Azure's LLM inference trace of 2023. Then the same once more while
100,000 further jobs wait behind those that are measured.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks import report
from config import connections, embedded_redis
from config.settings import load
from gpu_worker.vllm_engine import VLLMEngine
from scheduler.jobs import FUNCTION, Request, fetch
from scheduler.workers import alive

NAME = "engine_efficiency"
QUEUE, TIER = "low", "batch"
PRIORITY = 200
"""Of the batch tier: the directly fed requests are low to the engine's gate, as the jobs are."""
CHUNK = 5_000
SKIPPED = 256
"""Jobs that end before a backlog is measured."""
LAST = 64
"""Jobs before the end of a measurement from which on to look often."""


def prompts(count: int, seed: int) -> list[str]:
    """Return `count` sums; the same for the same seed."""
    rng = random.Random(seed)
    return [f"{rng.randrange(1000)}+{rng.randrange(1000)}=" for _ in range(count)]


async def direct(engine: VLLMEngine, texts: list[str], tokens: int) -> float:
    """Return tokens per second of the engine fed with all prompts at once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=tokens, temperature=0, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
    )

    async def one(number: int, text: str) -> int:
        num_tokens = 0
        request_id = f"direct-{time.time_ns()}-{number}"
        async for output in engine.llm.generate(text, params, request_id, priority=PRIORITY):
            num_tokens = len(output.outputs[0].token_ids)
        return num_tokens

    begun = time.perf_counter()
    counts = await asyncio.gather(*(one(i, text) for i, text in enumerate(texts)))
    return sum(counts) / (time.perf_counter() - begun)


def fill(connection: Redis, texts: list[str], tokens: int) -> None:
    """Add a job for every prompt."""
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    meta = {"tier": TIER, "tenant": "default", "metadata": {}}
    for at in range(0, len(texts), CHUNK):
        bodies = [
            {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            for text in texts[at : at + CHUNK]
        ]
        requests = [Request(endpoint="/v1/completions", body=body) for body in bodies]
        data = [
            Queue.prepare_data(FUNCTION, args=(r,), timeout=600, result_ttl=600, meta=meta)
            for r in requests
        ]
        queue.enqueue_many(data)


def through_queue(connection: Redis, jobs: int, tokens: int) -> float:
    """Return tokens per second of the next `jobs` jobs, first claim to last result in Redis.

    They stand in the queue while RQ is suspended; a worker notices its end within a quarter second,
    which is not counted.
    """
    num_before = _num_finished(connection)
    head = Queue(QUEUE, connection=connection).get_job_ids(0, 1)[0]
    connection.delete("rq:suspended")
    _until_finished(connection, num_before + jobs)
    ended = time.time()
    _suspend(connection)
    begun = fetch(connection, head).started_at
    assert begun is not None
    return jobs * tokens / (ended - begun.timestamp())


def through_backlog(connection: Redis, jobs: int, tokens: int) -> float:
    """Return tokens per second of about `jobs` jobs in the midst of many: from result to result.

    The engine works before the first and after the last, so neither end is filling or emptying it.
    """
    connection.delete("rq:suspended")
    first = _until_finished(connection, _num_finished(connection) + SKIPPED)
    begun = time.perf_counter()
    last = _until_finished(connection, first + jobs)
    took = time.perf_counter() - begun
    _suspend(connection)
    return (last - first) * tokens / took


def _num_finished(connection: Redis) -> int:
    return int(connection.zcard(f"rq:finished:{QUEUE}"))


def _until_finished(connection: Redis, count: int) -> int:
    """Wait until `count` jobs have finished; return how many it are then."""
    while (num_finished := _num_finished(connection)) < count:
        time.sleep(0.01 if count - num_finished <= LAST else 0.25)  # looking costs the queue's side
    return num_finished


def _suspend(connection: Redis) -> None:
    """Have the worker claim nothing, and wait until nothing is in flight."""
    connection.set("rq:suspended", 1)
    while connection.zcard(f"rq:wip:{QUEUE}"):
        time.sleep(0.02)


@contextmanager
def worker(connection: Redis, environment: dict[str, str]) -> Iterator[None]:
    """Run a worker as the Procfile does while the context lasts."""
    rq = str(Path(sys.executable).with_name("rq"))
    command = [rq, "worker", "-c", "config.rq", "-w", "gpu_worker.GPUWorker", "high", "low"]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=sys.stderr)
    try:
        while not alive(connection, QUEUE):
            if process.poll() is not None:
                sys.exit(f"the worker ended with status {process.returncode}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


@dataclass
class Pairs:
    """Alternating measurements, and what they gave."""

    engine: VLLMEngine
    connection: Redis
    jobs: int
    tokens: int

    async def run(self, pairs: int, backlog: int = 0) -> dict[str, float]:
        """Return medians of `pairs` pairs with `backlog` jobs waiting behind the measured ones."""
        measure = through_backlog if backlog else through_queue
        fill(self.connection, prompts(backlog, seed=backlog), self.tokens)
        measured = []
        for pair in range(-1, pairs):  # the first one only warms both up
            rates = await self._pair(pair, measure)
            line = "direct {:7.0f} tok/s, queue {:7.0f} tok/s".format(*rates)
            name = f"pair {pair + 1}" if pair >= 0 else "warm-up"
            ratio = rates[1] / rates[0]
            print(f"{name:8} {line}, {ratio:.3f}, {backlog:,} behind", file=sys.stderr)
            if pair >= 0:
                measured.append((*rates, ratio))
        names = ("direct_tokens_per_s", "through_queue_tokens_per_s", "through_queue_vs_direct")
        medians = (statistics.median(values) for values in zip(*measured, strict=True))
        return dict(zip(names, medians, strict=True))

    async def _pair(
        self, pair: int, measure: Callable[[Redis, int, int], float]
    ) -> tuple[float, float]:
        texts = prompts(self.jobs, seed=pair)

        async def queued() -> float:
            fill(self.connection, texts, self.tokens)
            return await asyncio.to_thread(measure, self.connection, self.jobs, self.tokens)

        direct_rates = [await direct(self.engine, texts, self.tokens)]
        queue_rates = [await queued(), await queued()]
        direct_rates.append(await direct(self.engine, texts, self.tokens))
        return statistics.harmonic_mean(direct_rates), statistics.harmonic_mean(queue_rates)


async def measure(url: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures."""
    connection = connections.commands(url)
    engine = await VLLMEngine.start(load())
    pairs = Pairs(engine, connection, args.jobs, args.tokens)
    try:
        with worker(connection, {"REDIS_URL": url}):
            connection.set("rq:suspended", 1)
            figures = await pairs.run(args.pairs)
            deep = await pairs.run(args.pairs, backlog=args.backlog)
            connection.delete(f"rq:queue:{QUEUE}")
    finally:
        await engine.stop()
    return figures | {f"{name}_{args.backlog // 1000}k": value for name, value in deep.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--jobs", type=int, default=640, help="of each of a pair's four parts")
    parser.add_argument("--tokens", type=int, default=129, help="output tokens of every job")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--backlog", type=int, default=100_000, help="jobs that wait behind")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
    ):
        os.environ["REDIS_URL"] = url
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(measure(url, args))
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
