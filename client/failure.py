"""Failures: every way in which a command does not do what it was told, with its exit status.

    Failure              status
    ├── Misused          2     the command line, or a file that it names, is wrong
    ├── Unreachable      3     nobody answers, or not as Slalom does
    │   └── Lost         3     it is not known whether what was asked for was done
    └── Refused          3     the server said no, and why

A command that did its work, and saw a job fail, ends with JOB_FAILED; that is no Failure.
"""

from collections.abc import Mapping
from typing import Any

DONE = 0
JOB_FAILED = 1
MISUSED = 2
REFUSED = 3
INTERRUPTED = 130

Json = dict[str, Any]


class Failure(Exception):
    """A command cannot do what it was told; the message says why, and what to do."""

    status: int = REFUSED
    code: str = "failed"
    retry_after_s: float | None = None
    """When it may be tried again; None: that is not said."""

    @property
    def lines(self) -> list[str]:
        """What a person reads."""
        return [str(self)]

    @property
    def body(self) -> Json:
        """What a program reads."""
        return {"code": self.code, "message": str(self)}


class Misused(Failure):
    """The command line, or a file that it names, is wrong."""

    status = MISUSED
    code = "usage"


class Unreachable(Failure):
    """Nobody answers at the address, or not as Slalom does."""

    code = "unreachable"


class Lost(Unreachable):
    """The connection broke while a request was under way that must not be sent twice."""

    code = "connection_lost"


class Refused(Failure):
    """The server answered with a problem."""

    def __init__(
        self, http_status: int, problem: Mapping[str, Any], retry_after_s: float | None = None
    ) -> None:
        error = problem.get("error")
        self.error: Mapping[str, Any] = error if isinstance(error, dict) else {}
        told = problem.get("detail") or self.error.get("message") or problem.get("title")
        self.detail = str(told or "no reason was given")
        super().__init__(f"{self.detail} (HTTP {http_status})")
        self.http_status = http_status
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.code = str(self.error.get("code") or "http_error")

    @property
    def may_be_done(self) -> bool:
        """Whether the server does not know itself if what was asked for is done."""
        return "instance" in self.problem

    @property
    def lines(self) -> list[str]:
        """One line, and one more for each field that is wrong."""
        if not self._fields:
            return [str(self)]
        title = self.problem.get("title") or "The request is not valid"
        fields = [f"  {field.get('field')}: {field.get('message')}" for field in self._fields]
        return [f"{title} (HTTP {self.http_status})", *fields]

    @property
    def body(self) -> Json:
        """The problem as the server told it."""
        told = {"code": self.code, "message": self.detail, "status": self.http_status}
        return {**told, **({"errors": self._fields} if self._fields else {})}

    @property
    def _fields(self) -> list[Json]:
        errors = self.problem.get("errors")
        return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
