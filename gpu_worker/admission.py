"""Admission: how many jobs of each class, high and low, a worker holds.

Low jobs are claimed as late as the engine allows, so that their order can still change in Redis: as
many as have seats, and a buffer of as many as end within a second, because a seat that comes free
must not wait for a claim. High jobs have a limit of their own: a worker full of low ones still
takes them.

An engine with a gate keeps seats for high requests itself, and only while high ones come and go.
One without a gate would give a waiting low request any seat; then low jobs are held back here, for
good: `reserve` seats stay free of them, and there is no buffer. A high request then finds a seat at
once, but shares its steps with low ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_BUFFERED = 2.0
"""Jobs per seat beyond those in seats."""
LEAST_BUFFERED = 0.125
WINDOW_S = 1.0


@dataclass(slots=True)
class Endings:
    """How many jobs ended in the last second."""

    _since: float = 0.0
    _num: int = 0
    _before: int = 0

    def add(self, now: float) -> None:
        """Count one."""
        self._roll(now)
        self._num += 1

    def num(self, now: float) -> int:
        """Return how many ended in the last full window, or in this one if that is more."""
        self._roll(now)
        return max(self._num, self._before)

    def _roll(self, now: float) -> None:
        num_windows = (now - self._since) // WINDOW_S
        if num_windows >= 1:
            self._before = self._num if num_windows < 2 else 0
            self._since, self._num = self._since + num_windows * WINDOW_S, 0


@dataclass(slots=True)
class Admission:
    """The limits of one worker; `high_queue` is None where nothing is high."""

    seats: int
    queues: Sequence[str]
    high_queue: str | None = None
    reserve: int = 0
    is_gated: bool = False
    fixed: int | None = None
    """The operator's own limit of each class."""
    endings: Endings = field(default_factory=Endings)

    def buffer(self, now: float) -> int:
        """Return how many jobs to hold beyond those in seats."""
        least, most = int(self.seats * LEAST_BUFFERED), int(self.seats * MOST_BUFFERED)
        return max(1, least, min(most, self.endings.num(now)))

    def most(self, now: float) -> int:
        """Return how many jobs of one class to hold."""
        return self.fixed or self.seats + self.buffer(now)

    def refill(self, now: float) -> int:
        """Return after how many endings to claim again."""
        return max(1, (self._most_low(self.most(now)) - self.seats) // 2)

    def rooms(self, num_high: int, num_low: int, now: float) -> list[int]:
        """Return how many jobs may be claimed of each queue; none behind one that has no room."""
        held = self.most(now)
        high, low = max(0, held - num_high), max(0, self._most_low(held) - num_low)
        rooms: list[int] = []
        for queue in self.queues:
            is_closed = bool(rooms) and not rooms[-1]
            rooms.append(0 if is_closed else high if queue == self.high_queue else low)
        return rooms

    def _most_low(self, held: int) -> int:
        """Return how many low jobs to hold."""
        if self.is_gated or self.high_queue not in self.queues:
            return held
        return min(held, max(1, self.seats - self.reserve))
