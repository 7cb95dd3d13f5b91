"""A gate that can be set anew between measurements: one engine serves all of them.

It reads what holds from the file that SWITCH names whenever that is replaced, within LOOK_S: a look
at a file may take as long as a tenth of a step. Given several gates it takes turns of TURN steps,
and counts what the steps of every turn gave: the speed of a machine drifts least from one handful
of steps to the next.
"""

import json
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vllm.v1.core.sched.output import SchedulerOutput

from gpu_worker.gate import GatedScheduler
from gpu_worker.gate_policy import Gate, GateOptions

SWITCH = "BENCHMARK_GATE_SWITCH"
LOOK_S = 0.1
TURN = 8
IDLE_S = 0.0005

ALONE: Literal["alone"] = "alone"
"""High requests as if no low one were in the engine, where they wait."""

Gating = GateOptions | None | Literal["alone"]
"""None: vLLM's own scheduling."""


@dataclass(slots=True)
class Counts:
    """What all the steps of a turn gave."""

    steps: int = 0
    seconds: float = 0.0
    """Pauses of high ones before a step count to it."""
    high: int = 0
    low: int = 0
    """Output tokens."""


def switch(path: Path, gate: Gating) -> None:
    """Set the gate of the engine that reads `path`."""
    take_turns(path, [("", gate)])


def take_turns(path: Path, turns: Sequence[tuple[str, Gating]]) -> None:
    """Set gates that take turns, in this order, again and again; each has a name."""
    text = json.dumps([(n, asdict(g) if isinstance(g, GateOptions) else g) for n, g in turns])
    new = path.with_suffix(f".{time.monotonic_ns()}")  # two files at a time: inodes differ
    new.write_text(text)
    new.replace(path)


def counted(path: Path) -> dict[str, Counts]:
    """Return what the steps gave until the latest change of gates, by the name of the turn."""
    found = json.loads(_counts(path).read_text())
    return {name: Counts(**counts) for name, counts in found.items()}


def _counts(path: Path) -> Path:
    return path.with_suffix(".counts")


class SwitchedScheduler(GatedScheduler):
    """A GatedScheduler with options from a file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._switch = Path(os.environ[SWITCH])
        self._inode = -1
        self._look_at = 0.0
        self._turns: deque[tuple[str, Gating]] = deque([("", None)])
        self._num_steps = 0
        self._gates: dict[GateOptions, Gate] = {}
        self._counts: dict[str, Counts] = {}
        self._on_their_way: deque[tuple[str, set[str]]] = deque()
        self._done_at = time.monotonic()

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Schedule a step as the file has it."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._look()
        name, gate = self._turns[0]
        output = self._schedule_alone() if gate == ALONE else super().schedule(*args, **kwargs)
        if len(self._turns) > 1 and output.total_num_scheduled_tokens:
            requests = {r: self.requests[r] for r in output.num_scheduled_tokens}
            high = {r for r, request in requests.items() if self._is_high(request)}
            self._on_their_way.append((name, high))
            self._num_steps += 1
            # A run of steps in which low requests join high ones is not cut in two.
            is_over = len(high) in (0, len(requests)) or self._gate.options.share == 1
            if self._num_steps >= TURN and is_over:
                self._turns.rotate(-1)
                self._begin()
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any) -> Any:
        """Count what a step gave."""
        outputs = super().update_from_output(scheduler_output, *args)
        if not scheduler_output.total_num_scheduled_tokens:
            return outputs
        now = time.monotonic()
        if self._on_their_way:
            name, high = self._on_their_way.popleft()
            counts = self._counts.setdefault(name, Counts())
            counts.steps += 1
            counts.seconds += now - self._done_at
            for given in (given for core in outputs.values() for given in core.outputs):
                if given.request_id in high:
                    counts.high += len(given.new_token_ids)
                else:
                    counts.low += len(given.new_token_ids)
        self._done_at = now
        return outputs

    def _schedule_alone(self) -> SchedulerOutput:
        parts = self._parted()
        come = self._coming_high()
        if parts.low and self._lacks_room(parts.high, come):
            self._make_room(parts, come)
            parts = self._parted()
        high, low = parts.high, parts.low
        most, self.max_num_active_reqs = self.max_num_active_reqs, len(high) + len(come)
        self.running = high
        try:
            output: SchedulerOutput = super(GatedScheduler, self).schedule()
        finally:
            self.max_num_active_reqs = most
            self.running.extend(low)
        if output.total_num_scheduled_tokens:
            self._gate.steps.scheduled(time.time(), output.total_num_scheduled_tokens)
        else:
            time.sleep(IDLE_S)  # low requests that wait would have it ask again at once
        return output

    def _look(self) -> None:
        inode = self._switch.stat().st_ino
        if inode == self._inode:
            return
        self._inode = inode
        if self._counts:
            counts = {name: asdict(counts) for name, counts in self._counts.items()}
            _counts(self._switch).write_text(json.dumps(counts))
        self._counts.clear()
        self._on_their_way.clear()
        read = json.loads(self._switch.read_text())
        self._turns = deque((n, GateOptions(**g) if isinstance(g, dict) else g) for n, g in read)
        self._begin()

    def _begin(self) -> None:
        self._num_steps = 0
        _, gate = self._turns[0]
        if isinstance(gate, GateOptions):
            steps = self._gate.steps
            self._gate = self._gates.setdefault(gate, Gate(gate, steps=steps))

    def _prepare(self, now: float) -> Any:
        _, gate = self._turns[0]
        return super()._prepare(now) if gate else []
