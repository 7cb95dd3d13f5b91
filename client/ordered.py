"""Ordered: many things at once, and their results in the order of the things.

At most `at_once` are under way or wait to be told, so memory stays bounded however long the source
is. Who stops listening cancels what is under way.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def ordered(
    source: AsyncIterable[T], work: Callable[[T], Awaitable[R]], *, at_once: int
) -> AsyncGenerator[R]:
    """Yield what `work` makes of each item; the first exception ends it all."""
    slots = asyncio.Semaphore(at_once)
    begun: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    under_way: set[asyncio.Future[R]] = set()

    async def feed() -> None:
        try:
            async for item in source:
                await slots.acquire()
                task = asyncio.ensure_future(work(item))
                under_way.add(task)
                begun.put_nowait(task)
        finally:
            begun.put_nowait(None)

    feeder = asyncio.create_task(feed())
    try:
        while task := await begun.get():
            yield await task
            under_way.discard(task)
            slots.release()
        await feeder
    finally:
        feeder.cancel()
        for task in under_way:
            task.cancel()
        await asyncio.gather(feeder, *under_way, return_exceptions=True)


async def each(items: Iterable[T]) -> AsyncGenerator[T]:
    """Yield the items, as a source."""
    for item in items:
        yield item
