"""The third part of `benchmarks.api`: how long a client waits for the first token of a stream.

A worker with the engine that `SLALOM_ENGINE` names (the simulated one by default), web as always,
and one job after another: submitted with `stream`, followed on its events from the start. The
engine's own time to its first token is what its worker wrote into the job: from the claim on.
"""

import http.client
import json
import os
import re
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.api_servers import SLALOM, NotAnswered, serving
from benchmarks.engine_efficiency import prompts, worker
from config import connections

TOKENS = 32
TOKEN = re.compile(rb"id: ?\d+-[1-9]\d*\s*$")
END = re.compile(rb"id: ?\d+-end\s*$")


@dataclass(frozen=True, slots=True)
class First:
    """When the first token of a job was at its client, and when the engine had it (s)."""

    client_s: float
    engine_s: float


def first(port: int, prompt: str) -> First:
    """Return how long the first token of a new job took."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "tier": "premium", "stream": True}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begun = time.monotonic()
    client.request("POST", "/v1/jobs", json.dumps(body), {"Content-Type": "application/json"})
    job_id = json.loads(client.getresponse().read())["id"]
    client.request("GET", f"/v1/jobs/{job_id}/events")
    response = client.getresponse()
    first_at = None
    for line in iter(response.readline, b""):
        if first_at is None and TOKEN.match(line):
            first_at = time.monotonic()
        if END.match(line):
            break
    response.read()
    client.request("GET", f"/v1/jobs/{job_id}")
    job = json.loads(client.getresponse().read())
    client.close()
    if first_at is None:
        raise NotAnswered(f"job {job_id} had no token among its events")
    claimed, token = (datetime.fromisoformat(job[n]) for n in ("started_at", "first_token_at"))
    return First(first_at - begun, (token - claimed).total_seconds())


def measure(url: str, directory: Path, streams: int) -> dict[str, float]:
    """Return the figures."""
    engine = os.environ.get("SLALOM_ENGINE", "sim")
    variables = {"REDIS_URL": url, "SLALOM_ENGINE": engine, "SLALOM_LOG_LEVEL": "WARNING"}
    with (
        serving(SLALOM, url, directory / "stream.log") as server,
        worker(connections.commands(url), variables),
    ):
        found = [first(server.port, prompt) for prompt in prompts(streams + 5, seed=1)][5:]
    client_s = statistics.median(one.client_s for one in found)
    engine_s = statistics.median(one.engine_s for one in found)
    text = f"first token: client {client_s * 1e3:.1f} ms, engine {engine_s * 1e3:.1f} ms"
    print(text, file=sys.stderr)
    return {
        "stream_ttfb_vs_engine_ttft": client_s / engine_s,
        "stream_ttfb_ms": client_s * 1e3,
        "engine_ttft_ms": engine_s * 1e3,
    }
