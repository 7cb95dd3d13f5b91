"""Batch inspection: the first look at a whole input file, a part at a time.

It finds what makes the file useless (too many lines, none, no UTF-8) and which custom_ids come
twice. What it has found until the end stands in one process's memory: another that takes over
begins again. The lines that repeat a custom_id are kept as a bitmap, a bit per line as Redis counts
bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from scheduler.batch_lines import RawLine, custom_id_of
from scheduler.batch_record import BatchFault

MOST_LINES = 5_000
MOST_BYTES = 1 << 20
"""Of one call."""


@dataclass(slots=True)
class Inspection:
    """A look at `lines`, all of a file."""

    lines: Iterator[RawLine]
    max_lines: int
    total: int = 0
    """Lines that are not empty."""
    doubled: bytearray = field(default_factory=bytearray)
    fault: BatchFault | None = None
    _seen: set[bytes] = field(default_factory=set)

    def look_on(self) -> bool:
        """Look at the next lines; return whether there is nothing left to look at."""
        num_bytes = 0
        for _ in range(MOST_LINES):
            line = None if self.fault else next(self.lines, None)
            if line is None:
                self.fault = self.fault or (None if self.total else _EMPTY)
                return True
            self._look(line)
            num_bytes += len(line.data or b"")
            if num_bytes >= MOST_BYTES:
                break
        return False

    def _look(self, line: RawLine) -> None:
        if line.number > self.max_lines:
            text = f"a batch may have {self.max_lines} lines at most"
            self.fault = BatchFault("too_many_lines", text)
            return
        if line.is_blank:
            return
        self.total += 1
        if line.data is None:
            return
        try:
            line.data.decode()
        except UnicodeDecodeError:
            text = f"line {line.number} is not UTF-8"
            self.fault = BatchFault("invalid_encoding", text, line.number)
            return
        self._note(line.number, line.data)

    def _note(self, number: int, data: bytes) -> None:
        custom_id = custom_id_of(data)
        if custom_id is None:
            return
        digest = blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            place, bit = divmod(number, 8)
            self.doubled.extend(bytes(max(0, place + 1 - len(self.doubled))))
            self.doubled[place] |= 0x80 >> bit
        self._seen.add(digest)


_EMPTY = BatchFault("empty_file", "the input file has no lines")


def is_marked(bitmap: bytes, number: int) -> bool:
    """Whether the bit of a line is set."""
    place, bit = divmod(number, 8)
    return place < len(bitmap) and bool(bitmap[place] & (0x80 >> bit))
