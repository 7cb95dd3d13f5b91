"""What to run: the Procfile's processes, fitted to the settings of this box."""

import os
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from config.settings import Settings
from onebox import procfile
from onebox.preflight import Port
from onebox.process import Service

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NOT_BY_DEFAULT = {"slow": 0}  # one box has one engine, and `fast` serves both queues
WORKERS = ("fast", "slow", "autoscaler")  # end once the jobs in flight have
TO_GO_S = 10.0  # what a worker needs beyond its jobs: to stop its engine and sign off
TO_ANSWER_S = 5.0  # what the API needs beyond its longest wait


def choose_engine(
    environment: MutableMapping[str, str], env_file: Mapping[str, str | None], chosen: str
) -> None:
    """Run the engine that set-up chose, unless the person names one."""
    name = "SLALOM_ENGINE"
    if chosen and not environment.get(name) and not env_file.get(name):
        environment[name] = chosen


def services(settings: Settings, scale: dict[str, int]) -> list[Service]:
    """Return the services of the Procfile, as many of each as `scale` says."""
    commands = procfile.read(ROOT / "Procfile")
    if not settings.redis_is_embedded:
        commands.pop("redis", None)
    counts = {name: n for name, n in NOT_BY_DEFAULT.items() if name in commands} | scale
    instances = procfile.formation(commands, counts)
    return [service(name, command, settings) for name, command in instances.items()]


def service(name: str, command: str, settings: Settings) -> Service:
    """Give a process its drain time and its place in the order."""
    kind = name.partition(".")[0]
    if kind == "redis":
        port = settings.redis_port
        return Service(name, command, is_keeper=True, is_up=lambda: answers_ping(port))
    drain_s = settings.drain_s + TO_GO_S if kind in WORKERS else 10.0
    if kind == "web":
        drain_s = settings.max_wait_s + TO_ANSWER_S
    return Service(name, command, drain_s)


def ports(settings: Settings) -> list[Port]:
    """Return every port that a process will listen on."""
    dashboard = (settings.dashboard_bind, settings.dashboard_port)
    wanted = [
        Port(settings.host, settings.port, "the API", "PORT"),
        Port(*dashboard, "the dashboard", "SLALOM_DASHBOARD_PORT"),
    ]
    if settings.redis_is_embedded:
        wanted.append(Port("127.0.0.1", settings.redis_port, "Redis", "SLALOM_REDIS_PORT"))
    return wanted


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of every process: this one's, with .venv first and .env applied."""
    return {
        **os.environ,
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "SLALOM_DASHBOARD_BIND": settings.dashboard_bind,
        "SLALOM_DASHBOARD_PORT": str(settings.dashboard_port),
    }


def answers_ping(port: int) -> bool:
    """Tell whether a Redis server on this machine has loaded its data and serves."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def address(host: str, port: int) -> str:
    """Return where a client on this machine finds a server that binds `host`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"{here}:{port}"
