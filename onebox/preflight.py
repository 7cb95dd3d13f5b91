"""Before anything starts: one run per data directory, and its ports are free."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LOCK = "onebox.lock"


class PreflightError(Exception):
    """Slalom cannot start here; the message says what to do."""


class Port(NamedTuple):
    """An address that one of the processes will listen on, and the setting that moves it."""

    host: str
    number: int
    what: str
    setting: str


@contextlib.contextmanager
def only_run(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; PreflightError where another run does."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip()
            raise PreflightError(f"Slalom already runs in {data_dir} (pid {pid}).") from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def check_ports(ports: list[Port]) -> None:
    """Raise PreflightError for every port that is taken, with a free one to take instead."""
    messages = []
    for port in ports:
        if not is_free(port.host, port.number):
            other = free_after(port, {p.number for p in ports})
            messages.append(
                f"Port {port.number} ({port.what}) is taken;"
                f" choose another: {port.setting}={other} make run"
            )
    if messages:
        raise PreflightError("\n".join(messages))


def is_free(host: str, number: int) -> bool:
    """Tell whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
    return True


def free_after(port: Port, taken: set[int]) -> int:
    """Return the next free port number."""
    numbers = range(port.number + 1, min(port.number + 100, 65536))
    return next((n for n in numbers if n not in taken and is_free(port.host, n)), port.number + 1)
