"""A gate that can be set anew between measurements: one engine serves all of them.

Its options are read from the file that SWITCH names whenever that is replaced, within LOOK_S: a
look at a file may take as long as a tenth of a step. `null` is vLLM's own scheduling.
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput

from gpu_worker.gate import GatedScheduler
from gpu_worker.gate_policy import Gate, GateOptions

SWITCH = "BENCHMARK_GATE_SWITCH"
LOOK_S = 0.1


def switch(path: Path, options: GateOptions | None) -> None:
    """Set the gate of the engine that reads `path`."""
    new = path.with_suffix(f".{time.monotonic_ns()}")  # two files at a time: inodes differ
    new.write_text(json.dumps(options and asdict(options)))
    new.replace(path)


class SwitchedScheduler(GatedScheduler):
    """A GatedScheduler with options from a file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._switch = Path(os.environ[SWITCH])
        self._inode = -1
        self._look_at = 0.0
        self._is_open = True
        self._gates: dict[GateOptions, Gate] = {}

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Schedule a step as the file has it."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._look()
        return super().schedule(*args, **kwargs)

    def _look(self) -> None:
        inode = self._switch.stat().st_ino
        if inode == self._inode:
            return
        self._inode = inode
        options = json.loads(self._switch.read_text())
        self._is_open = options is None
        if options:
            wanted = GateOptions(**options)
            steps = self._gate.steps
            self._gate = self._gates.setdefault(wanted, Gate(wanted, steps=steps))

    def _prepare(self, now: float) -> Any:
        return [] if self._is_open else super()._prepare(now)
