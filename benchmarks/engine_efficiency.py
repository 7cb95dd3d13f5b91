"""How much of the engine reaches jobs that come through the queue.

Tokens per second of jobs through RQ, GPUWorker and vLLM, over tokens per second of the same prompts
given to `AsyncLLM.generate` all at once: same engine settings, same run, alternating, median of the
pairs. The worker is a process of its own, started as in the Procfile; every job asks for the same
number of tokens (`ignore_eos`), so that nothing but time differs.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from benchmarks import report
from config import connections, embedded_redis
from config.settings import Settings, load
from gpu_worker.vllm_engine import VLLMEngine
from scheduler.jobs import Request, fetch
from scheduler.submit import Submitter
from scheduler.workers import alive

NAME = "engine_efficiency"
QUEUE, TIER = "low", "batch"


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
        async for output in engine.llm.generate(text, params, f"direct-{time.time_ns()}-{number}"):
            num_tokens = len(output.outputs[0].token_ids)
        return num_tokens

    begun = time.perf_counter()
    counts = await asyncio.gather(*(one(i, text) for i, text in enumerate(texts)))
    return sum(counts) / (time.perf_counter() - begun)


def through_queue(connection: Redis, settings: Settings, texts: list[str], tokens: int) -> float:
    """Return tokens per second of the same prompts as jobs, first claim to last result in Redis.

    The jobs are submitted while RQ is suspended; a worker notices its end within a quarter second,
    which is not counted.
    """
    connection.set("rq:suspended", 1)
    submitter = Submitter(connection, settings.tiers())
    finished = f"rq:finished:{QUEUE}"
    before = connection.zcard(finished)
    ids = []
    for text in texts:
        body = {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = Request(endpoint="/v1/completions", body=body)
        ids.append(submitter.submit(request, tier=TIER).id)
    connection.delete("rq:suspended")
    while connection.zcard(finished) - before < len(texts):
        time.sleep(0.02)
    ended = time.time()
    begun = fetch(connection, ids[0]).started_at  # the head of the queue: in the first claim
    assert begun is not None
    return len(texts) * tokens / (ended - begun.timestamp())


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


async def measure(url: str, jobs: int, tokens: int, pairs: int) -> dict[str, float]:
    """Return the figures of `pairs` pairs."""
    settings = load()
    connection = connections.commands(url)
    engine = await VLLMEngine.start(settings)
    ratios, direct_rates, queue_rates = [], [], []
    try:
        with worker(connection, {"REDIS_URL": url}):
            for pair in range(-1, pairs):  # the first one only warms both up
                texts = prompts(jobs, seed=pair)
                direct_rate = await direct(engine, texts, tokens)
                queue_rate = await asyncio.to_thread(
                    through_queue, connection, settings, texts, tokens
                )
                ratio = queue_rate / direct_rate
                line = (
                    f"direct {direct_rate:7.0f} tok/s, queue {queue_rate:7.0f} tok/s, {ratio:.3f}"
                )
                print(f"{'warm-up' if pair < 0 else f'pair {pair + 1}':8} {line}", file=sys.stderr)
                if pair >= 0:
                    ratios.append(ratio)
                    direct_rates.append(direct_rate)
                    queue_rates.append(queue_rate)
    finally:
        await engine.stop()
    return {
        "through_queue_vs_direct": statistics.median(ratios),
        "direct_tokens_per_s": statistics.median(direct_rates),
        "through_queue_tokens_per_s": statistics.median(queue_rates),
        "jobs": jobs,
        "tokens_per_job": tokens,
        "seats": engine.seats,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--jobs", type=int, default=1280)
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of every job")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
    ):
        os.environ["REDIS_URL"] = url
        figures = asyncio.run(measure(url, args.jobs, args.tokens, args.pairs))
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
