"""Deadlines: until when a job must start and end, from its own wish or its tier's objectives.

A job keeps them as instants (epoch s) in fields of its record, so that Lua can compare them with
Redis's clock:

    start_by         it must have started; met by its first start, whatever comes after that
    finish_by        it must have ended; holds for ever, through retries and rescues
    deadline_since   from when both count; a replay counts them afresh

One that plain RQ enqueued has none. What is no instant counts as none. `scheduler.expiry` ends the
jobs that are past them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Self

from rq.job import Job

from config.tiers import Objectives

_FIELDS = ("start_by", "finish_by", "deadline_since")
_END_OF_TIME = 253_402_300_800.0
"""The year 10,000, which no `datetime` reaches."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Instants (epoch s); None where nothing is promised."""

    start_by: float | None = None
    finish_by: float | None = None
    since: float | None = None

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
            now,
        )

    @classmethod
    def of_record(cls, record: Mapping[bytes, bytes]) -> Self:
        """Return the deadlines in a job's record as Redis gives it, field names as bytes."""
        return cls.read({name: record.get(name.encode()) for name in _FIELDS})

    @classmethod
    def read(cls, record: Mapping[str, bytes | str | None]) -> Self:
        """Return the deadlines in a job's record; what is no number counts as none."""
        return cls(*(_instant(record.get(name)) for name in _FIELDS))

    @property
    def deadline_at(self) -> float | None:
        """The instant after which the job is of no use: it must have ended, or at least started."""
        return self.finish_by if self.finish_by is not None else self.start_by

    def waits_until(self, *, has_started: bool = False) -> float | None:
        """Return the instant after which the job may not start any more."""
        instants = [self.finish_by] if has_started else [self.start_by, self.finish_by]
        return min((at for at in instants if at is not None), default=None)

    def passed(self, doing: str, *, has_started: bool = False) -> str:
        """Return what to say of a job that is past its deadline and still is `doing` something."""
        at = self.waits_until(has_started=has_started)
        if at is None:
            return f"its deadline passed and it was still {doing}"
        what = "finish" if has_started or at == self.finish_by else "start"
        within = "" if self.since is None else f" within {at - self.since:.1f} s,"
        instant = _iso(at)
        return f"it had to {what}{within} by {instant}, and was still {doing}"

    def fields(self) -> dict[Any, str]:
        """Return what to write into the job's record."""
        if self.deadline_at is None:
            return {}
        instants = (self.start_by, self.finish_by, self.since)
        named = zip(_FIELDS, instants, strict=True)
        return {name: f"{at:.3f}" for name, at in named if at is not None}


NONE = Deadlines()


class DatedJob(Job):
    """RQ's job, with the deadlines of its record."""

    deadlines = NONE

    def restore(self, raw_data: Any) -> Any:
        """Take over a record."""
        self.deadlines = Deadlines.of_record(raw_data)
        return super().restore(raw_data)


def of_job(job: Job) -> Deadlines:
    """Return the deadlines of `job`; none where it was not read as a DatedJob."""
    return getattr(job, "deadlines", NONE)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _instant(text: bytes | str | None) -> float | None:
    try:
        at = float(text or "")
    except ValueError:
        return None
    return at if isfinite(at) and 0 <= at < _END_OF_TIME else None
