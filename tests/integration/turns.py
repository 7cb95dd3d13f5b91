"""Turns: start-time fair queueing between the lines of one queue, in plain Python.

The line whose turn is the smallest is served, by name where several are, and its turn moves by the
work of the job over the weight of the line. A line that comes begins at the smallest turn; one that
is found empty when it would be served is forgotten. Once no line but the queue's own is left, there
are no turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Turns:
    """The lines of `queue` that are served in turn; `lists` has who waits in each."""

    queue: str
    lists: Mapping[str, Sequence[object]]
    turns: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def seat(self, line: str, weight: float = 1.0) -> None:
        """Let a line take turns, unless it does."""
        if line not in self.turns:
            self.turns[line] = min(self.turns.values(), default=0.0)
            if line != self.queue:
                self.weights[line] = weight

    def first(self) -> str | None:
        """Return the line with the smallest turn."""
        return min(self.turns, key=lambda line: (self.turns[line], line), default=None)

    def next(self) -> str | None:
        """Return the line whose turn it is; None if nobody waits."""
        while (line := self.first()) and set(self.turns) != {self.queue}:
            if self.lists.get(line):
                return line
            del self.turns[line]
            self.weights.pop(line, None)
        self.turns.clear()
        return self.queue if self.lists.get(self.queue) else None

    def charge(self, line: str, work: float) -> None:
        """Move the turn of a line behind `work`."""
        if line in self.turns:
            self.turns[line] += work / self.weights.get(line, 1.0)
