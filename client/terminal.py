"""Terminal: all that a command writes. Results go to standard output, everything else to error.

With `--json` standard output has one JSON object, or one in each line, and nothing else. Colours
and progress are for terminals only, and NO_COLOR is honoured. Text that comes from elsewhere loses
its control characters on a terminal: an answer must not move the cursor or set the title.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from client.failure import Failure, Json, Misused

UNLIMITED = 100_000
"""Columns where nobody looks at them: what a pipe gets is never cut."""

_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)], "�")
_CONTROLS |= {ord("\n"): "\n", ord("\t"): "\t"}


class Terminal:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._file: IO[str] | None = None
        self._notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    @property
    def _out(self) -> IO[str]:
        """The file that was named, else what standard output is now: rich borrows it at times."""
        return self._file or sys.stdout

    @property
    def is_seen(self) -> bool:
        """Whether a person looks at the results as they come."""
        return self._out.isatty()

    @contextmanager
    def into(self, path: Path | None, *, as_json: bool = False) -> Iterator[None]:
        """Write results into a file, if one is named; Misused if it cannot be written."""
        if path is None:
            yield
            return
        try:
            file = path.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise Misused(f"{path} cannot be written: {error.strerror or error}") from error
        before = self.as_json
        with file:
            self._file, self.as_json = file, as_json or before
            try:
                yield
            finally:
                self._file, self.as_json = None, before

    def show(self, body: Json, human: Callable[[Json], RenderableType]) -> None:
        """Write `body`, as JSON or as a person likes to see it."""
        if self.as_json:
            self.json(body)
        else:
            self.print(human(body))

    def json(self, body: Json) -> None:
        """Write one line of JSON."""
        self._write(json.dumps(body) + "\n")

    def print(self, what: RenderableType) -> None:
        """Write a table or a text."""
        console = _console(self._out)
        with console.capture() as captured:
            console.print(what)
        lines = captured.get().removesuffix("\n").split("\n")
        self._write("".join(f"{line.rstrip()}\n" for line in lines))

    def text(self, text: str) -> None:
        """Write a text as it is, but for what would disturb a terminal."""
        self._write(plain(text) if self.is_seen else text)

    def line(self, text: str) -> None:
        """Write a text and end the line, if it does not itself."""
        self.text(text if text.endswith("\n") else f"{text}\n")

    def note(self, text: str) -> None:
        """Tell a person something that is no result."""
        self._notes.print(Text(f"slalom: {plain(text)}"))

    def hint(self, text: str) -> None:
        """Tell a person something that a script need not know."""
        if self._notes.is_terminal and not self.as_json:
            self._notes.print(Text(plain(text), style="dim"))

    def failure(self, failure: Failure, about: str = "") -> None:
        """Tell why something was not done."""
        first, *more = failure.lines
        head = f"{about}: {first}" if about else first
        self._notes.print(Text.assemble(("slalom: ", "bold red"), plain(head)))
        for line in more:
            self._notes.print(Text(plain(line)))

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show how far long work is, on a terminal; yield what is told of each step."""
        with Progress(
            *_columns(total),
            TimeElapsedColumn(),
            console=self._notes,
            transient=True,
            disable=not self._notes.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        ) as progress:
            task = progress.add_task(what, total=total)
            yield lambda steps: progress.advance(task, steps)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def plain(text: str) -> str:
    """Return `text` without characters that control a terminal."""
    return text.translate(_CONTROLS)


def prepare() -> None:
    """Let no character, and no closed stream, break the output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        else:
            stream.reconfigure(errors="backslashreplace")


def stop_writing() -> None:
    """Send what is left to nowhere: the reader has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console(out: IO[str]) -> Console:
    width = None if out.isatty() else UNLIMITED
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False)


def _columns(total: int | None) -> tuple[ProgressColumn, ...]:
    """Return what shows the progress of one step, of many, or of nobody knows how many."""
    what = TextColumn("{task.description}")
    if total == 1:
        return SpinnerColumn(), what
    return what, BarColumn(24), MofNCompleteColumn() if total else TextColumn("{task.completed}")
