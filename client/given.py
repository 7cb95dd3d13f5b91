"""Given: what a command reads from files and from standard input, `-`.

A thread reads, because a blocking read of a terminal or a slow pipe must hold up neither the jobs
already on their way nor Ctrl-C. It is a daemon and reads a duplicate of the descriptor, so that it
may still be blocked when the process ends.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NoReturn, TypeVar

from client.failure import Json, Misused
from client.patience import Note

STDIN = "-"
MOST_BYTES = 16 << 20
"""Of a prompt or a line; servers accept less, unless told otherwise."""

AT_A_TIME = 1 << 20
READ_AHEAD = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """The end of what a thread reads."""

    error: Exception | None = None


class BadLine(Exception):
    """A line holds no job; the message says why, and never what is in it."""


async def text(path: str, note: Note) -> str:
    """Return the text in a file; Misused if it cannot be read or is too large."""
    parts = [part async for part in _from_thread(_whole(path, note))]
    return decoded(b"".join(parts), name(path))


def lines(path: str, note: Note) -> AsyncGenerator[list[tuple[int, bytes]]]:
    """Yield the lines that are not empty, with their numbers, as many at a time as have come."""
    return _from_thread(_numbered(path, note))


async def words(path: str, note: Note) -> AsyncGenerator[str]:
    """Yield the words of a file, as they come: ids, one per line or more."""
    async for found in lines(path, note):
        for number, line in found:
            for word in decoded(line, f"{name(path)}, line {number}").split():
                yield word


def name(path: str) -> str:
    """Return how a person calls `path`."""
    return "standard input" if path == STDIN else path


def decoded(data: bytes, where: str) -> str:
    """Return UTF-8 as text; Misused if it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misused(f"{where} is not UTF-8: byte {error.start}") from error


def job_in(line: bytes, defaults: Json) -> Json:
    """Return the body of the job in a line, with `defaults` for what it leaves out."""
    if len(line) > MOST_BYTES:
        raise BadLine(f"longer than {MOST_BYTES >> 20} MiB")
    try:
        body = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise BadLine("not JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise BadLine("not JSON that can be read: a number has too many digits") from error
    if not isinstance(body, dict):
        raise BadLine('a line must be an object, such as {"prompt": "1+1="}')
    return {**defaults, **body}


def _no_number(constant: str) -> NoReturn:
    raise BadLine(f"not JSON: {constant} is no number")


def _open(path: str, note: Note) -> BufferedReader:
    try:
        if path != STDIN:
            return Path(path).open("rb")
        if os.isatty(0):
            note("reading from the terminal; Ctrl-D ends it")
        return os.fdopen(os.dup(0), "rb")
    except OSError as error:
        raise Misused(f"{name(path)} cannot be read: {error.strerror or error}") from error


def _whole(path: str, note: Note) -> Iterator[bytes]:
    with _open(path, note) as file:
        yield (data := file.read(MOST_BYTES + 1))
    if len(data) > MOST_BYTES:
        raise Misused(f"{name(path)} is larger than {MOST_BYTES >> 20} MiB")


def _numbered(path: str, note: Note) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines in each piece that can be read at once; of one too long only its begin."""
    number = 1
    rest = b""
    with _open(path, note) as file:
        while piece := file.read1(AT_A_TIME):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[: MOST_BYTES + 1]
            if found := _not_empty(lines, number):
                yield found
            number += len(lines)
    if found := _not_empty([rest], number):
        yield found


def _not_empty(lines: list[bytes], first: int) -> list[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(lines, first) if line.strip()]


async def _from_thread(source: Iterator[T]) -> AsyncGenerator[T]:
    """Yield what `source` yields, which blocks only a thread."""
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[T | _End] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)

    def put(item: T | _End) -> None:
        room.acquire()
        loop.call_soon_threadsafe(read.put_nowait, item)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            put(_exhaust(source, put))

    threading.Thread(target=run, name="reader", daemon=True).start()
    while not isinstance(item := await read.get(), _End):
        room.release()
        yield item
    if item.error:
        raise item.error


def _exhaust(source: Iterator[T], put: Callable[[T], None]) -> _End:
    """Hand on what `source` yields; return how it ended."""
    try:
        for item in source:
            put(item)
    except OSError as error:
        return _End(Misused(f"the input cannot be read: {error.strerror or error}"))
    except Misused as error:
        return _End(error)
    return _End()
