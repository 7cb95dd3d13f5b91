"""Plain functions that workers under test run."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import rq


def add(a: int, b: int) -> int:
    return a + b


def nothing() -> None:
    return None


def fail(message: str) -> None:
    raise RuntimeError(message)


async def add_later(a: int, b: int) -> int:
    return a + b


def echo(value: Any) -> Any:
    return value


def current_id() -> str | None:
    job = rq.get_current_job()
    return job.id if job else None


async def current_id_later() -> str | None:
    await asyncio.sleep(0.05)
    return current_id()


def again_once() -> rq.Retry | str:
    job = rq.get_current_job()
    return "done" if job and job.number_of_retries else rq.Retry(max=1)


def loop_for_ever() -> None:
    while True:
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def wait_for(path: str) -> None:
    while not Path(path).exists():
        await asyncio.sleep(0.02)


def no_json() -> set[int]:
    return {1}


def leave() -> None:
    sys.exit("I leave")


async def leave_later() -> None:
    sys.exit("I leave")


def add_slowly(a: int, b: int) -> int:
    time.sleep(0.02)
    return a + b


async def add_after_a_while(a: int, b: int) -> int:
    await asyncio.sleep(0.02)
    return a + b
