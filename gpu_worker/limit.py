"""Limit: the time that a job, or its callback, may take."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from rq.timeouts import JobTimeoutException

T = TypeVar("T")


async def within(limit_s: float, awaitable: Awaitable[T], what: str = "the job") -> T:
    """Return what `awaitable` returns; JobTimeoutException after `limit_s`, if that is positive."""
    limit = asyncio.timeout(limit_s if limit_s > 0 else None)
    try:
        async with limit:
            return await awaitable
    except TimeoutError as error:
        if not limit.expired():
            raise  # its own
        raise JobTimeoutException(f"{what} ran for more than {limit_s} s") from error
