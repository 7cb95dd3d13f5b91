"""The `slalom` command as it is installed, in a process of its own, and the API it talks to."""

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from config.settings import ROOT
from tests.conftest import until

PATIENCE_S = 60
_INSTALLED = "import sys; from client.main import main; sys.argv[0] = 'slalom'; main()"
COMMAND = [sys.executable, "-c", _INSTALLED]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The one object that was written."""
        [line] = self.lines
        return json.loads(line)

    @property
    def jsons(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


def environment(url: str, **more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}
    return {**plain, "PYTHONPATH": str(ROOT), "SLALOM_URL": url, "TERM": "xterm-256color", **more}


def slalom(url: str, *arguments: str, stdin: str | bytes = b"", **variables: str) -> Done:
    """Run a command to its end; it must leave no traceback."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=environment(url, **variables),
        timeout=PATIENCE_S,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def started(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command while the context lasts."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(url),
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> Done:
    """Return what a command that was started wrote, once it has ended."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    return Done(process.returncode, out, err)


def on_a_terminal(url: str, *arguments: str, **variables: str) -> str:
    """Run a command on a terminal of 80 columns; return all that it wrote there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(url, COLUMNS="80", **variables),
    )
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], PATIENCE_S)[0]:
        try:
            written += (part := os.read(ours, 65536))
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
    os.close(ours)
    process.wait(PATIENCE_S)
    return written.decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def web(redis_url: str, port: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the API at `port` while the context lasts."""
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "config" / "gunicorn.py")]
    server = subprocess.Popen(
        [*command, "--bind", f"127.0.0.1:{port}", "api.app:create_app()"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), **variables},
        stderr=subprocess.DEVNULL,
    )
    with server:
        try:
            until(lambda: answers(port) or server.poll() is not None)
            yield server
        finally:
            server.kill()


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
