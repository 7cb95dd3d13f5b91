"""The last part of `benchmarks.isolation`: high requests over HTTP, by the product's processes.

Redis, web and a GPUWorker with the gate at `strict`; high requests are `Prefer: wait` one after
another, in turn with nothing beside them and with thousands of low jobs in their queue. Those
beside low are compared with those alone before and after them.
"""

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from benchmarks.engine_efficiency import fill, prompts, worker
from benchmarks.isolation_load import HIGH_TOKENS, LOW_TOKENS, percentile
from config import connections, embedded_redis

QUEUE = "low"
ROUNDS, BATCH = 15, 4
"""High requests alone, and then beside low, in a round."""
DUTY = 0.4


@contextlib.contextmanager
def product(url: str, port: int) -> Iterator[None]:
    """Run web and a worker as the Procfile does."""
    environment = {
        "REDIS_URL": url,
        "PORT": str(port),
        "SLALOM_GATE": "strict",
        "SLALOM_LOG_LEVEL": "WARNING",
    }
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    command = [gunicorn, "-c", "config/gunicorn.py", "api.app:create_app()"]
    connection = connections.commands(url)
    with subprocess.Popen(command, env={**os.environ, **environment}) as web:
        try:
            with worker(connection, environment):
                yield
        finally:
            web.terminate()


def high(port: int, num: int, pause_s: float, rng: random.Random) -> list[float]:
    """Return how long each of `num` high requests took (s)."""
    took = []
    for prompt in prompts(num, seed=num):
        time.sleep(rng.expovariate(1 / pause_s) if pause_s else 0)
        body = {
            "prompt": prompt,
            "tier": "premium",
            "max_tokens": HIGH_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        begun = time.perf_counter()
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Content-Type": "application/json", "Prefer": "wait=30"}
        client.request("POST", "/v1/jobs", json.dumps(body), headers)
        answer = json.loads(client.getresponse().read())
        took.append(time.perf_counter() - begun)
        client.close()
        assert answer["status"] == "succeeded", answer
    return took


def measure() -> dict[str, float]:
    """Return the figures."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    rng = random.Random(7)
    idle: list[float] = []
    ratios: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
        product(url, port),
    ):
        connection = connections.commands(url)
        alone = high(port, 2 * BATCH, 0.0, rng)[BATCH:]
        for _ in range(ROUNDS):
            before, pause_s = alone, statistics.median(alone) * (1 - DUTY) / DUTY
            with flood(connection):
                beside = high(port, BATCH, pause_s, rng)
            alone = high(port, BATCH, 0.0, rng)
            median = statistics.median([*before, *alone])
            idle += [took / median for took in alone]
            ratios += [took / median for took in beside]
            times = f"{median * 1e3:.0f} ms, beside low {percentile(beside, 0.5) * 1e3:.0f} ms"
            print(f"http: high alone {times}", file=sys.stderr)
    return {
        "http_high_p50_vs_idle": percentile(ratios, 0.5) / percentile(idle, 0.5),
        "http_high_p95_vs_idle": percentile(ratios, 0.95) / percentile(idle, 0.95),
    }


@contextlib.contextmanager
def flood(connection: Redis) -> Iterator[None]:
    """Have low jobs wait and run while the context lasts."""
    fill(connection, prompts(5_000, seed=1), LOW_TOKENS)
    while not connection.zcard(f"rq:finished:{QUEUE}"):
        time.sleep(0.1)
    try:
        yield
    finally:
        connection.delete(f"rq:queue:{QUEUE}")
        while connection.zcard(f"rq:wip:{QUEUE}"):
            time.sleep(0.1)
        connection.delete(f"rq:finished:{QUEUE}")
