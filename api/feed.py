"""Feed: what the hub tells one follower, until he comes to read it.

It holds a bounded number of entries. A follower who does not read, because his client does not,
loses them all and is told to look into Redis instead, from where he stands.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

from scheduler.events import Entry

MOST_ENTRIES = 512
MOST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class News:
    """What came since the last time."""

    entries: list[Entry] = field(default_factory=list)
    must_look: bool = False
    """Whether there is more to know than the entries, or something else."""
    is_over: bool = False
    """Whether the follower is to end."""


class Feed:
    """A watcher of the hub, and the follower's side of it."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._num_bytes = 0
        self._must_look = True
        self._is_over = False
        self._status: str | None = None
        self._changed = threading.Condition()

    def on_entry(self, entry: Entry) -> None:
        """Keep an entry, or none at all any more if there are too many."""
        with self._changed:
            if self._must_look:
                return
            self._entries.append(entry)
            self._num_bytes += len(entry.body)
            if len(self._entries) > MOST_ENTRIES or self._num_bytes > MOST_BYTES:
                self._look()
            self._changed.notify()

    def on_status(self, status: str | None, *, has_ended: bool) -> None:
        """Have the follower look if this is new, or there is no job any more."""
        with self._changed:
            if has_ended or status is None or status != self._status:
                self._look()
            self._status = status

    def on_doubt(self) -> None:
        """Have the follower look."""
        with self._changed:
            self._look()

    def on_close(self) -> None:
        """Have the follower end."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def take(self, timeout_s: float) -> News | None:
        """Return what came, waiting for it if nothing did; None if nothing came in that time."""
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            if not self._has_news():
                return None
            news = News(list(self._entries), self._must_look, self._is_over)
            self._forget()
            self._must_look = False
            return news

    def _has_news(self) -> bool:
        return bool(self._entries) or self._must_look or self._is_over

    def _look(self) -> None:
        self._must_look = True
        self._forget()
        self._changed.notify()

    def _forget(self) -> None:
        self._entries.clear()
        self._num_bytes = 0
