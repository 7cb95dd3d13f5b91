"""The whole product, once: every process of the Procfile, vLLM with the adder, on free ports."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from config import connections
from config.settings import PREFIX, ROOT
from tests.conftest import until


@dataclass(frozen=True)
class Reply:
    """An HTTP reply with a JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class Product:
    """A running installation."""

    port: int
    dashboard_port: int
    redis_url: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def redis(self) -> Redis:
        return connections.commands(self.redis_url)

    def call(self, method: str, path: str, body: object = None, /, **headers: str) -> Reply:
        """Send a request; a body that is no bytes goes as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, method=method
        )
        request.add_header("Content-Type", "application/json")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return Reply(reply.status, reply.headers, json.load(reply))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, json.load(error))

    def submit(self, prompt: str, tier: str, **fields: object) -> str:
        body = {"prompt": prompt, "tier": tier, "max_tokens": 8, "temperature": 0, **fields}
        reply = self.call("POST", "/v1/jobs", body)
        assert reply.status == 202, reply.body
        return str(reply.body["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        reply = self.call("GET", f"/v1/jobs/{job_id}")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.body
        return found

    def ended(self, ids: list[str]) -> list[dict[str, Any]]:
        """Return the jobs once all of them have ended."""
        waiting = list(ids)

        def done() -> bool:
            while waiting and self.job(waiting[-1])["status"] in {
                "succeeded",
                "failed",
                "canceled",
                "expired",
            }:
                waiting.pop()
            return not waiting

        until(done, give_up_s=240)
        return [self.job(job_id) for job_id in ids]


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Start it as `make run` does, with a short lease, and end it as Ctrl-C does."""
    port, dashboard_port, redis_port = _free_ports(3)
    directory = tmp_path_factory.mktemp("product")
    environment = {
        "PORT": str(port),
        "SLALOM_DASHBOARD_PORT": str(dashboard_port),
        "SLALOM_REDIS_PORT": str(redis_port),
        "SLALOM_DATA_DIR": str(directory),
        "SLALOM_LEASE_S": "3",
        "SLALOM_AUTOSCALE_INTERVAL_S": "1",
        "SLALOM_WEB_THREADS": "1024",
        "SLALOM_ENGINE": "vllm" if find_spec("vllm") else "sim",
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in {"REDIS_URL", "PORT"}
    }
    log = directory / "onebox.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "onebox", "--no-demo"],
            cwd=ROOT,
            env={**inherited, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    url = f"redis://127.0.0.1:{redis_port}/0"
    product = Product(port, dashboard_port, url, process, log, environment)

    def ready() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            return product.call("GET", "/readyz").status == 200
        except OSError:
            return False

    until(ready, give_up_s=600)
    yield product
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
