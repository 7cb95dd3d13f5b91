"""The servers and clients that `benchmarks.api` measures: gunicorn as the Procfile starts it.

CPU is that of the web processes alone, by the kernel's count. Memory is their proportional share
(PSS) with the master's: what the machine would get back if they went. The kernel's own memory for
sockets and threads is not in it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.api_load import Answer
from config.settings import ROOT

SLALOM = "api.app:create_app()"
PLAIN = "benchmarks.api_plain:create_app()"
PATIENCE_S = 30.0


class NotAnswered(Exception):
    """A request got no answer, or the wrong one: there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running gunicorn."""

    port: int
    master: psutil.Process

    @property
    def workers(self) -> list[psutil.Process]:
        """The web processes."""
        return self.master.children()

    def cpu_s(self) -> float:
        """Return the CPU seconds that the web processes have used."""
        times = [worker.cpu_times() for worker in self.workers]
        return sum(t.user + t.system for t in times)

    def memory_kib(self) -> float:
        """Return the memory of all its processes."""
        processes = [self.master, *self.workers]
        return sum(process.memory_full_info().pss for process in processes) / 1024

    def threads(self) -> int:
        """Return how many threads the web processes have."""
        return sum(worker.num_threads() for worker in self.workers)


@contextlib.contextmanager
def serving(
    app: str, url: str, log: Path, flags: Sequence[str] = (), **environment: str
) -> Iterator[Server]:
    """Run gunicorn with Slalom's configuration; its log goes into a file."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "config" / "gunicorn.py")]
    variables = {**os.environ, "REDIS_URL": url, "PORT": str(port), **environment}
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [*command, *flags, app], cwd=ROOT, env=variables, stdout=output, stderr=output
        ) as process,
    ):
        try:
            _until_answering(process, port, log)
            yield Server(port, psutil.Process(process.pid))
        finally:
            process.terminate()


def _until_answering(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < give_up_at:
        with contextlib.suppress(OSError):  # URLError is one
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return
        time.sleep(0.05)
    raise NotAnswered(f"gunicorn does not answer; its log:\n{log.read_text()[-2000:]}")


def start_load(mode: str, port: int, requests: int, *flags: str) -> subprocess.Popen[str]:
    """Start clients; `answers` waits for them."""
    command = [sys.executable, "-m", "benchmarks.api_load", mode, str(port)]
    command += ["--requests", str(requests), *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answers(load: subprocess.Popen[str], expected: int, status: int) -> list[Answer]:
    """Return all answers of the clients; NotAnswered unless each has that status."""
    output, _ = load.communicate()
    if load.returncode:
        raise NotAnswered("the clients failed")
    found: list[Answer] = json.loads(output)["answers"]
    others = [answer["status"] for answer in found if answer["status"] != status]
    if others or len(found) != expected:
        text = f"{len(found)} of {expected} requests were answered, {len(others)} not with {status}"
        raise NotAnswered(f"{text}: {sorted(set(others))}")
    return found
