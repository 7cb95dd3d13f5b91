"""Deadlines: until when a job must start and end, from its own wish or its tier's objectives.

A job keeps them as instants (epoch s) in two fields of its record, `start_by` and `finish_by`, so
that Lua can compare them with Redis's clock. One that plain RQ enqueued has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from config.tiers import Objectives


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Instants (epoch s); None where nothing is promised."""

    start_by: float | None = None
    finish_by: float | None = None

    @classmethod
    def of(
        cls,
        objectives: Objectives,
        now: float,
        *,
        start_within_s: float | None = None,
        finish_within_s: float | None = None,
    ) -> Self:
        """Return the deadlines of a job submitted at `now`; its own wish goes before its tier's."""
        start_s = objectives.start_within_s if start_within_s is None else start_within_s
        finish_s = objectives.finish_within_s if finish_within_s is None else finish_within_s
        return cls(
            None if start_s is None else now + start_s,
            None if finish_s is None else now + finish_s,
        )

    @classmethod
    def read(cls, record: Mapping[str, bytes | str | None]) -> Self:
        """Return the deadlines in a job's record; what is no number counts as none."""
        return cls(_instant(record.get("start_by")), _instant(record.get("finish_by")))

    @property
    def deadline_at(self) -> float | None:
        """The instant after which the job is of no use: it must have ended, or at least started."""
        return self.finish_by if self.finish_by is not None else self.start_by

    def fields(self) -> dict[Any, str]:
        """Return what to write into the job's record."""
        named = {"start_by": self.start_by, "finish_by": self.finish_by}
        return {name: f"{at:.3f}" for name, at in named.items() if at is not None}


def _instant(text: bytes | str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
