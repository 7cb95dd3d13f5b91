"""Files: what a tenant uploads for a batch, and what batches leave, in Redis, in compressed pieces.

Web processes may run on different machines, so a file is kept where all of them find it. It is cut
into pieces of PIECE_BYTES as it comes, each compressed and written at once: nobody ever holds a
whole file. The record is written last, in one transaction; without it there is no file, and pieces
that were left behind by a process that died go after UPLOAD_TTL_S by themselves.

    slalom:file:{id}       hash     tenant, filename, purpose, size, pieces, created_at, expires_at
    slalom:file:{id}:{n}   string   zlib; every piece of an uploaded file but the last has the same
                                    size, so that any byte is found at once
    slalom:files:{tenant}  zset     file id -> created_at

All of it expires with the file.
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from scheduler import keys
from scheduler.listing import Listed, Listing

PIECE_BYTES = 1 << 18
COMPRESSION = 1
"""zlib's level: most of the gain at a fraction of the time."""
UPLOAD_TTL_S = 6 * 3600
MOST_FILES = 10_000
"""Files of one tenant."""

Purpose = Literal["batch", "batch_output"]


class NoSuchFile(Exception):
    """There is no such file: it never was, has expired, was deleted, or is another tenant's."""


class FileTooLarge(Exception):
    """More bytes came than a file may have; nothing of it is kept."""


class TooManyFiles(Exception):
    """The tenant has as many files as it may have."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file's record; instants in epoch s."""

    id: str
    tenant: str
    filename: str
    purpose: Purpose
    size: int
    """In bytes."""
    pieces: int
    created_at: int
    expires_at: int

    @classmethod
    def of_record(cls, file_id: str, record: dict[bytes, bytes]) -> Self | None:
        """Return the file of a record as Redis gives it; None for an empty one."""
        if not record:
            return None
        text = {name.decode(): value.decode() for name, value in record.items()}
        return cls(
            id=file_id,
            tenant=text["tenant"],
            filename=text["filename"],
            purpose=cast(Purpose, text["purpose"]),
            size=int(text["size"]),
            pieces=int(text["pieces"]),
            created_at=int(text["created_at"]),
            expires_at=int(text["expires_at"]),
        )

    def write(self, pipeline: Pipeline) -> None:
        """Add the record, and its place in the index, to a transaction."""
        record: dict[Any, Any] = {
            "tenant": self.tenant,
            "filename": self.filename,
            "purpose": self.purpose,
            "size": self.size,
            "pieces": self.pieces,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
        }
        pipeline.hset(keys.file(self.id), mapping=record)
        pipeline.expireat(keys.file(self.id), self.expires_at)
        pipeline.zadd(keys.files_of(self.tenant), {self.id: time.time()})

    @property
    def piece_keys(self) -> list[str]:
        """The keys of its pieces."""
        return [keys.piece(self.id, number) for number in range(self.pieces)]


def new_id() -> str:
    """Return the id of a new file."""
    return f"file-{uuid4().hex}"


@dataclass(slots=True)
class Upload:
    """A file that is coming: write what comes, then keep it or discard it."""

    connection: Redis
    max_bytes: int
    id: str = field(default_factory=new_id)
    num_bytes: int = 0
    _pieces: int = 0
    _rest: bytearray = field(default_factory=bytearray)

    @property
    def is_too_large(self) -> bool:
        """Whether more came than a file may have."""
        return self.num_bytes > self.max_bytes

    def write(self, data: bytes) -> int:
        """Take over the next bytes; those beyond the limit are counted, not kept."""
        self.num_bytes += len(data)
        if self.is_too_large:
            self.discard()
            return len(data)
        self._rest += data
        while len(self._rest) >= PIECE_BYTES:
            self._put(bytes(self._rest[:PIECE_BYTES]))
            del self._rest[:PIECE_BYTES]
        return len(data)

    def seek(self, offset: int) -> int:
        """Do nothing: form parsers rewind what they wrote."""
        return offset

    def close(self) -> None:
        """Do nothing: form parsers close what they wrote."""

    def keep(self, *, tenant: str, filename: str, purpose: Purpose, ttl_s: int) -> StoredFile:
        """Return the file, written whole; FileTooLarge or TooManyFiles, and nothing is kept."""
        if self.is_too_large:
            raise FileTooLarge(f"a file may have {self.max_bytes} bytes at most")
        if Files(self.connection).count(tenant) >= MOST_FILES:
            raise TooManyFiles(f"there are {MOST_FILES} files already; delete some")
        if self._rest:
            self._put(bytes(self._rest))
        now = int(time.time())
        kept = StoredFile(
            self.id, tenant, filename, purpose, self.num_bytes, self._pieces, now, now + ttl_s
        )
        try:
            alive = self._record(kept)
        except RedisError:
            self._withdraw(kept)
            raise
        if not alive:
            self._withdraw(kept)
            raise NoSuchFile(f"the upload took longer than {UPLOAD_TTL_S} s; send it again")
        return kept

    def _record(self, kept: StoredFile) -> bool:
        """Write the record; return whether no piece has expired meanwhile."""
        with self.connection.pipeline() as pipeline:
            for key in kept.piece_keys:
                pipeline.expireat(key, kept.expires_at)
            kept.write(pipeline)
            return all(pipeline.execute()[: kept.pieces])

    def _withdraw(self, kept: StoredFile) -> None:
        """Remove a file of which it is not known whether it was written."""
        with suppress(RedisError):
            Files(self.connection).remove(kept)

    def discard(self) -> None:
        """Leave nothing behind, as far as Redis can be reached."""
        self._rest.clear()
        if self._pieces:
            doomed = [keys.piece(self.id, number) for number in range(self._pieces)]
            with suppress(RedisError):  # it is away: they expire by themselves
                self.connection.unlink(*doomed)
                self._pieces = 0

    def _put(self, data: bytes) -> None:
        packed = zlib.compress(data, COMPRESSION)
        self._pieces += 1  # first, so that a write whose reply is lost is discarded too
        self.connection.set(keys.piece(self.id, self._pieces - 1), packed, ex=UPLOAD_TTL_S)


@dataclass(frozen=True, slots=True)
class Files:
    """The files that are kept."""

    connection: Redis

    def fetch(self, file_id: str, tenant: str) -> StoredFile:
        """Return a file of the tenant's; NoSuchFile."""
        [found] = self._read([file_id])
        if found is None or found.tenant != tenant:
            raise NoSuchFile(file_id)
        return found

    def page(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> Listed[StoredFile]:
        """Return a page of a tenant's files; UnknownCursor."""
        return self._listing(tenant).page(
            after=after,
            limit=limit,
            newest_first=newest_first,
            wanted=lambda found: purpose in (None, found.purpose),
        )

    def count(self, tenant: str) -> int:
        """Return how many files a tenant has, or a few more: some may have expired."""
        listing, index = self._listing(tenant), keys.files_of(tenant)
        listing.trim()
        if self.connection.zcard(index) >= MOST_FILES:
            listing.trim(MOST_FILES)
        return int(self.connection.zcard(index))

    def trim(self, tenant: str) -> None:
        """Drop the oldest entries of a tenant's index whose files have expired."""
        self._listing(tenant).trim()

    def content(self, stored: StoredFile) -> Iterator[bytes]:
        """Yield what is in a file, piece by piece; NoSuchFile if it goes meanwhile."""
        for number in range(stored.pieces):
            yield self.piece(stored.id, number)

    def piece(self, file_id: str, number: int) -> bytes:
        """Return the bytes of one piece; NoSuchFile."""
        packed = cast(bytes | None, self.connection.get(keys.piece(file_id, number)))
        if packed is None:
            raise NoSuchFile(file_id)
        return zlib.decompress(packed)

    def keep_until(self, stored: StoredFile, at: int) -> None:
        """Let a file expire no earlier than `at` (epoch s); NoSuchFile, or WatchError."""
        if stored.expires_at >= at:
            return
        record = keys.file(stored.id)
        with self.connection.pipeline() as pipeline:
            pipeline.watch(record)
            if not pipeline.exists(record):
                raise NoSuchFile(stored.id)
            pipeline.multi()
            pipeline.hset(record, "expires_at", at)
            for key in [record, *stored.piece_keys]:
                pipeline.expireat(key, at)
            pipeline.execute()

    def delete(self, file_id: str, tenant: str) -> None:
        """Delete a file of the tenant's; NoSuchFile."""
        self.remove(self.fetch(file_id, tenant))

    def remove(self, stored: StoredFile) -> None:
        """Remove all of a file in one step."""
        with self.connection.pipeline() as pipeline:
            pipeline.zrem(keys.files_of(stored.tenant), stored.id)
            pipeline.unlink(keys.file(stored.id), *stored.piece_keys)
            pipeline.execute()

    def _listing(self, tenant: str) -> Listing[StoredFile]:
        return Listing(self.connection, keys.files_of(tenant), keys.file, self._read)

    def _read(self, file_ids: list[str]) -> list[StoredFile | None]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for file_id in file_ids:
                pipeline.hgetall(keys.file(file_id))
            records = pipeline.execute()
        found = zip(file_ids, records, strict=True)
        return [StoredFile.of_record(file_id, record) for file_id, record in found]
