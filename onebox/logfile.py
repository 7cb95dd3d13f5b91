"""The log of one process: a file that the process writes itself and that we read along.

The process holds the file, not a pipe: if we are killed it can still write while it drains.
A file that grew past `MAX_BYTES` is moved to `{name}.1.log` and emptied in place.
"""

import os
import re
import shutil
from collections import deque
from pathlib import Path

MAX_BYTES = 64 << 20

ALARM = re.compile(
    r"""
      \S+\ (WARNING|ERROR|CRITICAL)\                    # Slalom: time level logger message
    | \[[^]]+\]\ \[\d+\]\ \[(WARNING|ERROR|CRITICAL)\]  # gunicorn: [time] [pid] [level]
    | (\(.+?\)\ )?(ERROR|CRITICAL)\                     # vLLM: (process pid=1) level; its
                                                       # warnings are notes
    """,
    re.VERBOSE,
)


def is_alarm(line: str) -> bool:
    """Tell whether a log line is one that a person should see at once."""
    return ALARM.match(line) is not None


class LogFile:
    """Reads what a process appends to its log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            self._start_over()
        path.touch()
        self._file = path.open("rb")
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=20)

    def new_lines(self) -> list[str]:
        """Return the lines that are complete since the last call."""
        *whole, self._partial = (self._partial + self._file.read()).split(b"\n")
        if self._file.tell() > MAX_BYTES:
            self._start_over()
            self._file.seek(0)
        lines = [line.decode(errors="replace").rstrip() for line in whole]
        self._tail.extend(lines)
        return lines

    def tail(self) -> list[str]:
        """Return the last lines read so far."""
        return list(self._tail)

    def forget(self) -> None:
        """Start a new tail: what follows is another process."""
        self._tail.clear()

    def _start_over(self) -> None:
        """Move what the log holds aside; whoever appends to it goes on in the empty file."""
        shutil.copyfile(self.path, self.path.with_suffix(".1.log"))
        os.truncate(self.path, 0)
