"""Tokens: the output of streamed jobs on its way from the engine into Redis.

Chunks are collected on the event loop and written by one thread, for all jobs together: at once
after a pause, else every TICK_S. The thread that writes endings first writes what is left of those
jobs, so that no chunk follows an end. Redis refuses what comes from an execution that has lost its
lease.

Nothing grows without bound. While Redis is away MOST_WAITING_BYTES are kept for it; beyond that the
job that has waited longest loses what waits, and its log gets a gap, as does one that outgrows
MOST_CHUNKS or MOST_BYTES.
"""

import asyncio
import logging
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from redis import Redis

from config.connections import UNAVAILABLE
from gpu_worker.inference import Keep
from scheduler.claim import Claim
from scheduler.events import GAP, Piece, append

logger = logging.getLogger(__name__)

TICK_S = 0.02
LONGEST_PAUSE_S = 2.0
MOST_CHUNKS = 50_000
MOST_BYTES = 1 << 24
"""Of one attempt."""
MOST_WAITING_BYTES = 1 << 26
MOST_BYTES_AT_ONCE = 1 << 20


@dataclass(eq=False)
class _Log:
    """What one execution has to write."""

    claim: Claim
    waiting: list[tuple[int, str]] = field(default_factory=list)
    num_waiting_bytes: int = 0
    num_entries: int = 0
    num_tried: int = 0
    """Entries that Redis was asked to take; it may have them although it did not say so."""
    num_bytes: int = 0
    is_closed: bool = False
    """Whether nothing is added any more: after a gap, or once the lease is lost."""

    @property
    def is_full(self) -> bool:
        return self.num_entries > MOST_CHUNKS or self.num_bytes > MOST_BYTES

    def add(self, body: str) -> None:
        self.waiting.append((self.num_entries, body))
        self.num_entries += 1
        self.num_bytes += len(body)
        self.num_waiting_bytes += len(body)

    def leave_gap(self) -> None:
        """Have a gap instead of what comes."""
        self.waiting.append((self.num_entries, GAP))
        self.is_closed = True

    def drop(self) -> None:
        """Have a gap instead of what waits, and of what comes."""
        first = self.waiting[0][0] if self.waiting else self.num_entries
        self.waiting = [(max(1, first, self.num_tried), GAP)]
        self.num_waiting_bytes = 0
        self.is_closed = True

    def take(self) -> list[tuple[int, str]]:
        """Return what waits, to be written now."""
        if self.waiting:
            self.num_tried = self.waiting[-1][0] + 1
        return list(self.waiting)

    def written(self, entries: Sequence[tuple[int, str]], *, is_ours: bool) -> None:
        """Let go of what was written; of everything if Redis says that the lease is lost."""
        last = entries[-1][0] if entries else -1
        self.waiting = [entry for entry in self.waiting if is_ours and entry[0] > last]
        self.num_waiting_bytes = sum(len(body) for _, body in self.waiting)
        self.is_closed = self.is_closed or not is_ours


_Taken = dict[str, tuple[_Log, list[tuple[int, str]]]]
"""Logs, by execution, with what of them is to be written now."""


class Tokens:
    """Writes the chunks of one worker's jobs."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._logs: dict[str, _Log] = {}
        """By execution, those where something waits, in the order in which it began to."""
        self._lock = threading.Lock()
        """Of the logs; never held while Redis is asked."""
        self._writing = threading.Lock()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self.num_waiting_bytes = 0

    def begin(self, claim: Claim) -> Keep | None:
        """Return what takes the chunks of a job, on the event loop; None if it is not streamed."""
        if claim.attempt is None:
            return None
        log = _Log(claim)

        def keep(body: str) -> None:
            self._put(log, body)

        keep((claim.job.started_at or datetime.now(UTC)).isoformat())
        return keep

    def end(self, claims: Sequence[tuple[Claim, int]]) -> None:
        """Write what is left of jobs that end; their logs expire after so many seconds.

        Raises what Redis raises, and may then be called again.
        """
        if claims:
            with self._writing:
                self._write({claim.execution_id: (claim, ttl_s) for claim, ttl_s in claims})

    async def run(self) -> None:
        """Write chunks until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = TICK_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await loop.run_in_executor(self._thread, self._write_all)
                pause_s = TICK_S
            except UNAVAILABLE as error:
                extra = {"event": "tokens.waiting", "error": error}
                logger.warning("streams wait for Redis", extra=extra)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                self._wake.set()
            await asyncio.sleep(pause_s)

    def _put(self, log: _Log, body: str) -> None:
        with self._lock:
            if log.is_closed:
                return
            if log.is_full:
                log.leave_gap()
                _warn("tokens.too_many", log)
            else:
                log.add(body)
                self.num_waiting_bytes += len(body)
            self._logs.setdefault(log.claim.execution_id, log)
            if self.num_waiting_bytes > MOST_WAITING_BYTES:
                self._drop_some()
        self._wake.set()

    def _drop_some(self) -> None:
        for log in self._logs.values():
            if self.num_waiting_bytes <= MOST_WAITING_BYTES:
                return
            if log.num_waiting_bytes:
                self.num_waiting_bytes -= log.num_waiting_bytes
                log.drop()
                _warn("tokens.dropped", log)

    def _write_all(self) -> None:
        with self._writing:
            while self._write({}):
                continue

    def _write(self, ends: dict[str, tuple[Claim, int]]) -> bool:
        """Write what waits of the jobs that end, else of all; say whether a bound left some."""
        taken, is_cut = self._take(ends)
        pieces = [
            Piece(log.claim, entries, ends[execution][1] if ends else None)
            for execution, (log, entries) in taken.items()
        ]
        idle = [Piece(claim, (), ttl_s) for key, (claim, ttl_s) in ends.items() if key not in taken]
        verdicts = append(self._connection, [*pieces, *idle])
        with self._lock:
            for (log, entries), verdict in zip(taken.values(), verdicts, strict=False):
                self._settle(log, entries, is_ours=verdict == "held")
        return is_cut

    def _take(self, executions: Collection[str]) -> tuple[_Taken, bool]:
        """Return what to write next, and whether a bound left some: of these, else of all."""
        taken: _Taken = {}
        num_bytes = 0
        with self._lock:
            for execution in executions or list(self._logs):
                if log := self._logs.get(execution):
                    taken[execution] = (log, log.take())
                    num_bytes += log.num_waiting_bytes
                if num_bytes > MOST_BYTES_AT_ONCE and not executions:
                    return taken, True
        return taken, False

    def _settle(self, log: _Log, entries: Sequence[tuple[int, str]], *, is_ours: bool) -> None:
        """Take note of what was written; what came meanwhile begins to wait now."""
        before = log.num_waiting_bytes
        log.written(entries, is_ours=is_ours)
        self.num_waiting_bytes += log.num_waiting_bytes - before
        del self._logs[log.claim.execution_id]
        if log.waiting:
            self._logs[log.claim.execution_id] = log


def _warn(event: str, log: _Log) -> None:
    extra = {"event": event, "job_id": log.claim.job.id}
    logger.warning("a stream goes on only with the whole answer", extra=extra)
