"""LocalPool: worker processes on this machine, found again after the autoscaler's own restart.

Each process has a record `{data_dir}/autoscaler/{name}.json` with its pid and start time, so a new
autoscaler adopts the workers of the one before it (a pid alone may be somebody else's by then).
Processes stay in the autoscaler's process group: whoever ends the group ends them too.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """A worker process; `started_at` (epoch s) tells it from a later one with its pid."""

    name: str
    for_queue: str
    queues: tuple[str, ...]
    pid: int
    started_at: float
    gpu: int | None = None
    draining: bool = False

    def process(self) -> psutil.Process | None:
        """Return the running process, None once it has ended."""
        try:
            process = psutil.Process(self.pid)
            ended = process.status() == psutil.STATUS_ZOMBIE
            same = abs(process.create_time() - self.started_at) < 1.0
        except psutil.NoSuchProcess:
            return None
        return process if same and not ended else None


class LocalPool:
    """The autoscaler's own workers."""

    def __init__(self, directory: Path, command: Sequence[str] | None = None) -> None:
        self._directory = directory
        self._command = command or worker_command()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def workers(self) -> list[PoolWorker]:
        """Return the workers that run, an earlier autoscaler's too; forget the ended ones."""
        running = []
        for path in sorted(self._directory.glob("*.json")):
            worker = _read(path)
            if worker and worker.process():
                running.append(worker)
            else:
                self._forget(path)
        return running

    def add(self, for_queue: str, queues: Sequence[str], gpu: int | None = None) -> PoolWorker:
        """Start a worker on `queues`, on GPU number `gpu` where one is given."""
        name = f"auto-{for_queue}-{uuid4().hex[:8]}"
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        child = subprocess.Popen(
            [*self._command, "--name", name, *queues],
            env={**os.environ, **visible},
            stdin=subprocess.DEVNULL,
        )
        self._children[name] = child
        started_at = psutil.Process(child.pid).create_time()
        worker = PoolWorker(name, for_queue, tuple(queues), child.pid, started_at, gpu)
        self._write(worker)
        return worker

    def drain(self, worker: PoolWorker) -> None:
        """Tell a worker to finish its jobs in flight and end."""
        if process := worker.process():
            process.send_signal(signal.SIGTERM)
        self._write(replace(worker, draining=True))

    def wait(self, timeout_s: float) -> list[PoolWorker]:
        """Wait for all workers to end; return those that have not."""
        processes = [process for worker in self.workers() if (process := worker.process())]
        psutil.wait_procs(processes, timeout=timeout_s)
        return self.workers()

    def _forget(self, path: Path) -> None:
        """Drop the record of a worker that has ended, and reap it if it was our child."""
        path.unlink(missing_ok=True)
        if child := self._children.pop(path.stem, None):
            child.wait()

    def _write(self, worker: PoolWorker) -> None:
        path = self._directory / f"{worker.name}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(worker)), encoding="utf-8")
        partial.replace(path)


def worker_command() -> list[str]:
    """Return the command that a user would type, of this environment's `rq`."""
    rq = str(Path(sys.executable).with_name("rq"))
    return [rq, "worker", "-c", "config.rq", "-w", "gpu_worker.GPUWorker"]


def _read(path: Path) -> PoolWorker | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return PoolWorker(**{**record, "queues": tuple(record["queues"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
