"""gunicorn, and a vLLM worker with flags of its own, in a database of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import connections
from scheduler.autoscaler.local_pool import worker_command
from tests.conftest import until
from tests.integration.test_api_processes import serving


@contextmanager
def served(url: str, directory: Path, flags: str, **variables: str) -> Iterator[int]:
    """Yield the port of a server whose worker has such a vLLM."""
    log = directory / "worker.log"
    variables |= {"REDIS_URL": url, "SLALOM_ENGINE": "vllm", "SLALOM_VLLM_ARGS": flags}
    with (
        connections.commands(url) as redis,
        log.open("wb") as output,
        serving(url) as (_, port),
    ):
        redis.flushdb()
        worker = subprocess.Popen(
            [*worker_command(), "high", "low"],
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
        )
        try:
            until(lambda: "worker ready" in log.read_text() or worker.poll(), give_up_s=300)
            assert worker.poll() is None, log.read_text()
            yield port
        finally:
            worker.terminate()
            worker.wait(timeout=60)
            redis.flushdb()
