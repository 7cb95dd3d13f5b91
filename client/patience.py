"""Patience: how long a command goes on asking a server that is busy, or away.

The clock starts with the first refusal and is set back by every answer. A pause that would end
after the patience is not begun: the failure that caused it is raised instead.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from client.failure import Failure

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 3.0
QUIET_S = 10.0

Note = Callable[[str], None]


@dataclass(slots=True)
class Notes:
    """Tells of pauses, of each reason once in a while: many requests may wait for the same."""

    note: Note
    _told: str = ""
    _quiet_until: float = 0.0

    def say(self, why: str, pause_s: float) -> None:
        """Tell of a pause, unless the same was told not long ago."""
        now = time.monotonic()
        if why != self._told or now >= self._quiet_until:
            self._told, self._quiet_until = why, now + max(pause_s, QUIET_S)
            self.note(f"{why}; trying again in {pause_s:.3g} s")


@dataclass(slots=True)
class Patience:
    """One request's."""

    most_s: float
    notes: Notes
    _since: float | None = field(default=None, init=False)
    _pauses: int = field(default=0, init=False)

    async def wait(self, failure: Failure, pause_s: float | None = None) -> None:
        """Wait for `pause_s`, or a little longer each time; raise `failure` at patience's end."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if pause_s is None:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._pauses)
        if now + pause_s > self._since + self.most_s:
            raise failure
        self._pauses += 1
        self.notes.say(str(failure), pause_s)
        await asyncio.sleep(pause_s)

    def renew(self) -> None:
        """Start over: the server answered."""
        self._since = None
        self._pauses = 0
