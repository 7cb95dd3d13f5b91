"""Listing: pages of what a tenant has, by a sorted set of ids, newest or oldest first.

The set names what was kept; records expire by themselves. An id whose record has gone is dropped
when a page comes across it, and the oldest are looked at whenever something is added (`trim`), so
that nothing else need look after the set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from redis import Redis

T = TypeVar("T")

MOST_LOOKS = 20
"""Reads of one page, each of as many records as the page has room for."""
TRIMMED = 20


class UnknownCursor(Exception):
    """There is nothing of that id to go on after."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A page, and whether there is more behind it."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """An index in Redis; `read` returns the records of some ids, None for one that has gone."""

    connection: Redis
    index: str
    key: Callable[[str], str]
    """The key of the record of an id."""
    read: Callable[[list[str]], list[T | None]]

    def page(
        self,
        *,
        after: str | None,
        limit: int,
        newest_first: bool = True,
        wanted: Callable[[T], bool] = lambda _: True,
    ) -> Listed[T]:
        """Return what is `wanted` behind the id `after`; UnknownCursor if that is not listed."""
        start = self._start(after, newest_first)
        found: list[T] = []
        for _ in range(MOST_LOOKS):
            ids = self._ids(start, limit + 1, newest_first)
            records = self.read(ids)
            start += len(ids) - self._drop_gone(ids, records)
            found += [record for record in records if record is not None and wanted(record)]
            if len(found) > limit or len(ids) <= limit:
                break
        return Listed(found[:limit], len(found) > limit)

    def trim(self, most: int = TRIMMED) -> None:
        """Drop those of the `most` oldest ids whose records have gone."""
        ids = self._ids(0, most, newest_first=False)
        with self.connection.pipeline(transaction=False) as pipeline:
            for found in ids:
                pipeline.exists(self.key(found))
            alive = pipeline.execute()
        self._drop_gone(ids, [known or None for known in alive])

    def _drop_gone(self, ids: list[str], records: Sequence[object | None]) -> int:
        gone = [found for found, record in zip(ids, records, strict=True) if record is None]
        if gone:
            self.connection.zrem(self.index, *gone)
        return len(gone)

    def _start(self, after: str | None, newest_first: bool) -> int:
        if after is None:
            return 0
        rank = self.connection.zrevrank if newest_first else self.connection.zrank
        place = cast(int | None, rank(self.index, after))
        if place is None:
            raise UnknownCursor(after)
        return place + 1

    def _ids(self, start: int, count: int, newest_first: bool) -> list[str]:
        ids = self.connection.zrange(self.index, start, start + count - 1, desc=newest_first)
        return [member.decode() for member in cast(list[bytes], ids)]
