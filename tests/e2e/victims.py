"""Victims: Redis, maintenance and a worker, each a process that may be killed and is replaced."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import cast

import psutil
from redis import Redis
from redis.exceptions import RedisError

from config import connections
from scheduler import keys
from scheduler.autoscaler.local_pool import worker_command
from tests.conftest import until

COMMANDS = {
    "redis": [sys.executable, "-m", "config.embedded_redis"],
    "maintenance": [sys.executable, "-m", "scheduler.maintenance"],
    "worker": [*worker_command(), "high", "low"],
}
GIVE_UP_S = 600.0


class Victims:
    """The processes of one installation, in `directory`, on `port`."""

    def __init__(
        self, directory: Path, port: int, random: Random, settings: dict[str, str]
    ) -> None:
        self._directory = directory
        self._random = random
        self._environment = {
            **os.environ,
            **settings,
            "SLALOM_DATA_DIR": str(directory),
            "SLALOM_REDIS_PORT": str(port),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self.connection = connections.commands(f"redis://127.0.0.1:{port}/0")

    def start_all(self) -> None:
        """Start each, Redis first."""
        for name in COMMANDS:
            self.start(name)

    def start(self, name: str) -> None:
        """Start the process; return once it is at work."""
        log = self._logs[name] = self._directory / f"{len(self._started):03}-{name}.log"
        with log.open("wb") as output:
            process = self._processes[name] = subprocess.Popen(
                COMMANDS[name], env=self._environment, stdout=output, stderr=output
            )
        self._started.append(process)
        until(lambda: self._is_up(name), GIVE_UP_S)

    def kill(self, name: str) -> None:
        """SIGKILL the process and replace it; return once its own children are gone too."""
        children = self._children(name)
        self._end(name, signal.SIGKILL)
        self.start(name)
        until(lambda: not any(map(_is_alive, children)), GIVE_UP_S)

    def kill_engine(self) -> None:
        """SIGKILL vLLM's EngineCore alone; return once the worker has replaced it."""
        num_before = self._log("worker").count("engine replaced")
        [core] = [p for p in self._children("worker") if p.name().startswith("VLLM::EngineCor")]
        core.kill()
        until(lambda: self._log("worker").count("engine replaced") > num_before, GIVE_UP_S)

    def stall_worker(self) -> None:
        """Freeze the worker until another has ended its jobs; then let it find that they are."""
        stalled = self._processes["worker"]
        stalled.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stalled.pid, os.WSTOPPED)
        jobs = {execution.rpartition(":")[0] for execution in in_flight(self.connection)}
        self.start("worker")
        until(lambda: self._have_ended(jobs), GIVE_UP_S)
        stalled.send_signal(signal.SIGCONT)
        stalled.send_signal(signal.SIGTERM)
        assert stalled.wait(GIVE_UP_S) == 0

    def cut_power(self) -> None:
        """SIGKILL Redis and lose a part of its last second, as if the machine had lost power."""
        durable = self.sync()
        time.sleep(self._random.random())
        self._end("redis", signal.SIGKILL)
        os.truncate(self._aof, self._random.randint(durable, self._aof.stat().st_size))
        self.start("redis")

    def sync(self) -> int:
        """Return the size of the append-only file once all that was written until now is safe."""
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.set("synced", 1)  # WAITAOF waits for the connection's own last write
            pipeline.waitaof(1, 0, 0)
            pipeline.execute()
        return self._aof.stat().st_size

    def stop(self) -> dict[str, int]:
        """Ask each to end, Redis last; return their exit statuses."""
        return {name: self._end(name, signal.SIGTERM) for name in reversed(COMMANDS)}

    def clear(self) -> None:
        """Leave nothing behind."""
        for process in self._started:
            process.kill()
            process.wait()
        self.connection.close()

    @property
    def _aof(self) -> Path:
        [path] = (self._directory / "redis").glob("appendonlydir/*.incr.aof")
        return path

    def _is_up(self, name: str) -> bool:
        assert self._processes[name].poll() is None, self._log(name)
        if name == "redis":
            return self._answers()
        return f"{name} {'ready' if name == 'worker' else 'started'}" in self._log(name)

    def _answers(self) -> bool:
        try:
            return bool(self.connection.ping())
        except RedisError:  # refused, or still loading its file
            return False

    def _log(self, name: str) -> str:
        return self._logs[name].read_text(encoding="utf-8", errors="replace")

    def _have_ended(self, jobs: Iterable[str]) -> bool:
        statuses = [self.connection.hget(f"rq:job:{job}", "status") for job in jobs]
        return set(statuses) <= {b"finished"}

    def _children(self, name: str) -> list[psutil.Process]:
        return psutil.Process(self._processes[name].pid).children(recursive=True)

    def _end(self, name: str, signum: int) -> int:
        """Send the signal; return the exit status."""
        self._processes[name].send_signal(signum)
        return self._processes[name].wait(GIVE_UP_S)


def in_flight(connection: Redis) -> list[str]:
    """Return what every worker has in flight, as "{job}:{execution}"."""
    started = [connection.zrange(keys.started(queue), 0, -1) for queue in ("high", "low")]
    return [member.decode() for members in started for member in cast(list[bytes], members)]


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
