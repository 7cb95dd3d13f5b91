"""Following: what becomes of a job, as it happens, though connections break.

The events of `GET /v1/jobs/{id}/events` are read until the one that says that the job has ended. A
stream that breaks or ends before is opened again behind the last event seen (Last-Event-ID), as
long as patience lasts. A server without that route is asked for the job again and again instead.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from httpx2 import ServerSentEvent

from client.failure import Failure, Json, Refused, Unreachable
from client.server import Server, job_path

ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})

FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An event of a job: `status` or `chunk`, with the JSON that belongs to it."""

    event: str
    id: str
    data: Json

    @property
    def attempt(self) -> str:
        """Which run of the job it belongs to: its output starts over with each."""
        return self.id.partition("-")[0]

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes after it."""
        return self.event == "status" and self.data.get("status") in ENDED

    @property
    def text(self) -> str:
        """What it adds to the first choice of the answer."""
        for choice in self.data.get("choices") or []:
            if choice.get("index", 0) == 0:
                return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
        return ""


async def ended(server: Server, job_id: str) -> Json:
    """Return the job once it has ended; one that has needs no stream."""
    job = await server.get(job_path(job_id))
    if job.get("status") in ENDED:
        return job
    async for _ in follow(server, job_id):
        pass
    return await server.get(job_path(job_id))


async def follow(server: Server, job_id: str) -> AsyncGenerator[Seen]:
    """Yield the events of a job, the last of which says that it has ended."""
    try:
        async for seen in _stream(server, job_id):
            yield seen
    except Refused as refused:
        if refused.http_status != 404 or refused.code == "job_not_found":
            raise
        async for seen in _look(server, job_id):  # the server has no such route
            yield seen


async def _stream(server: Server, job_id: str) -> AsyncGenerator[Seen]:
    """Yield the events as the server sends them; Refused if it sends none."""
    patience = server.patience()
    after = None
    while True:
        broken: Failure = Unreachable(f"{server.url} ended the stream before the job ended")
        try:
            async with aclosing(server.events(job_path(job_id, "events"), after)) as events:
                async for event in events:
                    patience.renew()
                    after = event.id or after
                    if seen := _read(event):
                        yield seen
                        if seen.has_ended:
                            return
        except (Unreachable, Refused) as failure:
            broken = _passing(failure, server)
        await patience.wait(broken, broken.retry_after_s)
        if seen := await _end(server, job_id):
            yield seen
            return
        patience.renew()  # it answers, though it may have no place for another stream


def _passing(failure: Unreachable | Refused, server: Server) -> Failure:
    """Return a failure that may pass; raise any other."""
    if isinstance(failure, Refused) and failure.retry_after_s is None:
        raise failure
    if not server.has_answered:
        raise failure
    return failure


async def _end(server: Server, job_id: str) -> Seen | None:
    """Return the last event of a job that has ended, None of any other."""
    job = await server.get(job_path(job_id))
    seen = Seen("status", "", {"status": job.get("status")})
    return seen if seen.has_ended else None


async def _look(server: Server, job_id: str) -> AsyncGenerator[Seen]:
    """Yield a status whenever another one is seen."""
    status = None
    pause_s = FIRST_LOOK_S
    while status not in ENDED:
        job = await server.get(job_path(job_id))
        if job.get("status") != status:
            status = job.get("status")
            yield Seen("status", "", {"status": status})
        else:
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_LOOK_S, pause_s * 1.5)


def _read(event: ServerSentEvent) -> Seen | None:
    """Return an event that tells of the job, None for any other."""
    if event.event not in {"status", "chunk"}:
        return None
    try:
        data = json.loads(event.data)
    except ValueError:
        return None
    return Seen(event.event, event.id, data) if isinstance(data, dict) else None
