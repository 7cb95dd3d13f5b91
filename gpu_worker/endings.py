"""Endings: how a job ended, as a value: what must be written, decided without Redis."""

import asyncio
import traceback
from dataclasses import dataclass
from typing import Any

from rq.exceptions import DeserializationError
from rq.timeouts import JobTimeoutException

from gpu_worker.engine import EngineError
from scheduler.deadlines import Deadlines
from scheduler.jobs import EXPIRED, Failure


@dataclass(frozen=True, slots=True)
class Finished:
    """The job succeeded with this return value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; `exc_string` is for the operator, `failure` for the caller."""

    failure: Failure
    exc_string: str
    error: BaseException
    partial: dict[str, Any] | None = None
    """The OpenAI response as far as it came, of a job that was cut off."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job's caller cancelled it while it ran."""

    partial: dict[str, Any] | None = None


Ending = Finished | Failed | Stopped
Imposed = Failed | Stopped
"""An ending that comes from outside."""


class Killed(Exception):
    """The job was in flight when its worker got a kill-horse command."""


class Expired(Exception):
    """The job was in flight when its deadline passed."""


UNREADABLE = "the job's record is not JSON; enqueue it with rq.serializers.JSONSerializer"
KILLED = "the worker got a kill-horse command while it ran this job"


def failed_by(error: BaseException) -> Failed:
    """Return the ending of a job that raised `error`."""
    match error:
        case EngineError():
            return _plain(error.code, str(error), error)
        case JobTimeoutException():
            return Failed(Failure(code="timeout", message=str(error)), traced(error), error)
        case DeserializationError():
            message = f"{UNREADABLE}: {error.__cause__ or error}"
            return _plain("invalid_record", message, error)
    message = f"{type(error).__name__}: {error}"
    return Failed(Failure(code="job_failed", message=message), traced(error), error)


def killed() -> Failed:
    """Return the ending of a job whose worker got a kill-horse command."""
    return _plain("killed", KILLED, Killed(KILLED))


def expired(deadlines: Deadlines) -> Failed:
    """Return the ending of a job that runs past its `finish_by`."""
    message = deadlines.passed("running", has_started=True)
    return _plain(EXPIRED, message, Expired(message))


def traced(error: BaseException) -> str:
    """Return the text that RQ keeps of an error."""
    return "".join(traceback.format_exception(error))


def let_pass(error: BaseException) -> None:
    """Raise on, if the running task is being cancelled or closed: `error` is not of its doing."""
    if isinstance(error, GeneratorExit):
        raise error
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError from error


def _plain(code: str, message: str, error: BaseException) -> Failed:
    """Return a failure that needs no traceback."""
    text = f"{type(error).__name__}: {message}"
    return Failed(Failure(code=code, message=message), text, error)
