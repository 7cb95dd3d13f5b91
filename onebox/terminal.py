"""What a person sees: lines that stay and, on a terminal, one live line below them.

Where the output is no terminal (a CI log, a file) the live line becomes a plain one, at most one
every `every_s` seconds, so that a log shows progress without filling up.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import TextIO

CLEAR = "\r\x1b[K"
COLOURS = (36, 32, 35, 34, 33, 96, 92, 95)


class Terminal:
    """One output shared by all that report; any thread may call it."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 15.0) -> None:
        self._stream = stream or sys.stdout
        self._every_s = every_s
        self._lock = threading.Lock()
        self._live = ""
        self._last_plain = time.monotonic()
        self.is_tty = self._stream.isatty()
        self.has_colour = self.is_tty and not os.environ.get("NO_COLOR")

    def say(self, text: str = "") -> None:
        """Print lines that stay, above the live one."""
        with self._lock:
            self._write((CLEAR if self._live else "") + text + "\n" + self._live)

    def live(self, text: str) -> None:
        """Replace the live line."""
        with self._lock:
            if self.is_tty:
                self._live = text[: shutil.get_terminal_size().columns - 1]
                self._write(CLEAR + self._live)
            elif time.monotonic() - self._last_plain >= self._every_s:
                self._last_plain = time.monotonic()
                self._write(text + "\n")

    def clear(self) -> None:
        """Take the live line away."""
        with self._lock:
            if self._live:
                self._live = ""
                self._write(CLEAR)

    def paint(self, text: str, number: int) -> str:
        """Colour `text` with the `number`th colour, on terminals that have any."""
        if not self.has_colour:
            return text
        return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone; the run is not
            pass
