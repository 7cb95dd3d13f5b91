"""Functions, callbacks and exception handlers of jobs that use what RQ offers."""

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import rq
from redis import Redis
from rq.job import Job

from tests.callables import add_later

Seen = dict[str, Any]


def seen(job: Job) -> str:
    """Return the key in which callbacks leave what they saw."""
    return f"seen:{job.id}"


def on_success(job: Job, connection: Redis, result: Any) -> None:
    note = {"on": "success", "status": job.get_status(refresh=False), "result": result}
    connection.rpush(seen(job), json.dumps(note))


def on_failure(
    job: Job,
    connection: Redis,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    note = {"on": "failure", "status": job.get_status(refresh=False), "error": kind.__name__}
    connection.rpush(seen(job), json.dumps(note))


def on_stopped(job: Job, connection: Redis) -> None:
    connection.rpush(seen(job), json.dumps({"on": "stopped"}))


def broken_callback(*_: Any) -> None:
    raise LookupError("the callback is broken")


def callback_that_waits(job: Job, connection: Redis, result: Any) -> None:
    while not connection.exists(f"go:{job.id}"):
        time.sleep(0.02)


def callback_for_ever(job: Job, connection: Redis, result: Any) -> None:
    while True:
        time.sleep(0.01)


def handle(job: Job, kind: type[BaseException], error: BaseException, trace: object) -> None:
    job.connection.rpush("handled", f"first {kind.__name__} {trace is not None}")


def handle_and_end(job: Job, kind: type[BaseException], error: BaseException, _: object) -> bool:
    job.connection.rpush("handled", "second")
    return False


def handle_too_late(job: Job, *_: Any) -> None:
    job.connection.rpush("handled", "third")


def leave() -> None:
    sys.exit("the job wants to leave")


def stop_iterating() -> None:
    next(iter(()))


def give_up() -> None:
    raise asyncio.CancelledError


def own_timeout() -> None:
    raise TimeoutError("its own")


def coroutine() -> Coroutine[Any, Any, int]:
    return add_later(1, 2)


def always_again() -> rq.Retry:
    return rq.Retry(max=1)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


async def until_told() -> str:
    """Run until somebody sets `go:{job}`."""
    job = rq.get_current_job()
    assert job is not None
    while not job.connection.exists(f"go:{job.id}"):
        await asyncio.sleep(0.02)
    return "told"


def fail_when_told() -> None:
    """Fail once somebody sets `go:{job}`; no coroutine, whose loop RQ's worker leaves open."""
    asyncio.run(until_told())
    raise RuntimeError("told to fail")


def note_in_meta() -> None:
    """Change the job's meta without saving it."""
    job = rq.get_current_job()
    assert job is not None
    job.meta["unsaved"] = True


def save_in_meta() -> None:
    job = rq.get_current_job()
    assert job is not None
    job.meta["saved"] = True
    job.save_meta()


def touch(path: str) -> None:
    Path(path).touch()


def class_of_job() -> str:
    return type(rq.get_current_job()).__name__


class OwnJob(Job):
    """A job class of the operator's."""
