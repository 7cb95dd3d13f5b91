"""One supervised process: started in a session of its own, restarted, drained, and gone for good.

The promise is about the group, not only its leader: a leader that ends leaves nothing behind. The
rest of its group gets SIGTERM, then SIGKILL once the drain time is over, and only an empty group
makes room for the next start: vLLM's engine is a child of its worker and holds the GPU's memory.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onebox.logfile import LogFile

LEASH = str(Path(__file__).with_name("leash.py"))
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
GOOD_UPTIME_S = 60.0  # after this long a process that ends is no longer failing in a row


@dataclass(frozen=True)
class Service:
    """What to run, and how long it may take to end after SIGTERM."""

    name: str
    command: str
    drain_s: float = 10.0
    is_keeper: bool = False  # the others cannot do without it: starts first, stops last
    is_up: Callable[[], bool] = lambda: True  # of a keeper: the others may start


def delay_s(failures: int) -> float:
    """Return the pause before the next start, after so many failures in a row."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** max(0, failures - 1))


def describe(status: int) -> str:
    """Say how a process ended, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit {code}"


class Process:
    """The process of one service, over all its restarts; `now` is a monotonic clock's."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.log = LogFile(logs / f"{service.name}.log")
        self.pid = 0  # also the group's id; 0 while there is no group
        self.is_running = False  # the leader lives
        self.start_at: float | None = None
        self.kill_at: float | None = None
        self.failures = 0  # in a row
        self._started_at = 0.0

    def start(self, environment: Mapping[str, str], now: float) -> None:
        """Start the command; its group must be gone."""
        self.log.new_lines()
        self.log.forget()
        leash = [sys.executable, "-IS", LEASH, str(os.getpid())]
        self.pid = os.posix_spawn(
            sys.executable,
            [*leash, "sh", "-c", f"exec {self.service.command}"],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log.path, os.O_WRONLY | os.O_APPEND, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
        )
        self.is_running, self._started_at = True, now
        self.start_at = self.kill_at = None

    def ended(self, now: float) -> None:
        """Take note that the leader was reaped: clear its group away, plan the next start."""
        self.is_running = False
        self.failures = 1 if now - self._started_at >= GOOD_UPTIME_S else self.failures + 1
        self.start_at = now + delay_s(self.failures)
        self.kill_at = self.kill_at or now + self.service.drain_s
        self._signal_group(signal.SIGTERM)

    def drain(self, now: float) -> None:
        """Ask the process to end within its drain time, and do not start it again."""
        self.start_at = None
        if self.is_running and self.kill_at is None:
            self.kill_at = now + self.service.drain_s
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole group at once."""
        self.start_at = None
        self._signal_group(signal.SIGKILL)

    def check(self, now: float) -> bool:
        """Kill the group if its time is over; return whether that happened now."""
        if self.is_gone() or self.kill_at is None or now < self.kill_at:
            return False
        self.kill_at = float("inf")
        self._signal_group(signal.SIGKILL)
        return True

    def is_gone(self) -> bool:
        """Tell whether nothing of the group is left."""
        if self.pid and not self.is_running and not self._signal_group(0):
            self.pid = 0
        return not self.pid

    def _signal_group(self, number: int) -> bool:
        """Send a signal to the whole group; False where it has no members."""
        try:
            if self.pid:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return bool(self.pid)
