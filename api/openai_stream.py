"""OpenAI streams: what happens to a job, as the server-sent events of OpenAI's routes.

    data: {…}            a chunk as vLLM made it, and which tier serves
    :                    nothing came for a while; clients skip comments
    data: {"error": …}   the job ended without an answer, after the stream had begun; the last one
    data: [DONE]         the end

The stream begins with the first chunk, or once nothing has come for a while: what ends badly before
that has a status of its own, like any other request. It ends with its job. A client that hangs up
cancels its job, unless that was made in the background: `api.serving`.
"""

import json
import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Protocol

from api import sse
from api.answers import status_url
from api.follow import Chunk, Event, Following, Silence, StatusChanged
from api.openai_errors import error_of
from api.problems import Problem, StreamInterrupted
from api.transcript import Differs, Transcript
from scheduler.jobs import ENDED, Status

logger = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"

Ended = Callable[[], Problem]
"""Fetches the job, which did not succeed, and returns why it has no answer."""


class Dialect(Protocol):
    """How one kind of endpoint streams."""

    def status(self, event: StatusChanged) -> Iterator[str]:
        """Yield what a client is told of a state that is not the last."""
        ...

    def chunk(self, event: Chunk) -> Iterator[str]:
        """Yield what a client is told of a chunk; Differs if it cannot go on from what it has."""
        ...

    def done(self) -> Iterator[str]:
        """Yield the end of a stream whose job succeeded."""
        ...

    def failed(self, problem: Problem) -> Iterator[str]:
        """Yield the end of a stream whose job did not."""
        ...


class ChunkDialect:
    """Chat completions and completions: chunks, and `[DONE]`."""

    def __init__(self, tier: str, *, wants_usage: bool) -> None:
        """Take OpenAI's word for the tier that serves, and whether usage is told at the end."""
        self._tier = tier
        self._wants_usage = wants_usage
        self._transcript = Transcript()

    def status(self, event: StatusChanged) -> Iterator[str]:
        """Yield nothing: OpenAI has no chunk for it."""
        yield from ()

    def chunk(self, event: Chunk) -> Iterator[str]:
        """Yield what of the chunk the client lacks."""
        body = json.loads(event.body)
        if not body.get("choices"):
            if self._wants_usage and body.get("usage"):
                yield data({**body, "service_tier": self._tier})
            return
        passed = self._transcript.pass_on(event.id.partition("-")[0], body)
        if passed:
            yield data({**passed, "service_tier": self._tier})

    def done(self) -> Iterator[str]:
        """Yield the end."""
        yield DONE

    def failed(self, problem: Problem) -> Iterator[str]:
        """Yield the error, which is the end."""
        yield data({"error": error_of(problem)})


class Stream:
    """The stream of one job to one client."""

    def __init__(self, job_id: str, following: Following, dialect: Dialect, ended: Ended) -> None:
        self._job_id = job_id
        self._following = following
        self._dialect = dialect
        self._ended = ended
        self._held: list[Event] = []
        self._is_gone = False
        self.is_over = False
        """Whether the client was told all there is."""

    def begin(self) -> None:
        """Wait for the first chunk, the end, or silence; raises the Problem of a job that failed.

        What came before that is told when the stream is read.
        """
        for event in self._following:
            self._held.append(event)
            if not isinstance(event, StatusChanged):
                return
            if event.status in ENDED:
                if event.status != "succeeded":
                    self.is_over = True
                    raise self._ended()
                return

    def __iter__(self) -> Iterator[str]:
        """Yield the events, to the last."""
        try:
            for event in chain(self._held, self._following):
                yield from self._told(event)
                if self.is_over:
                    return
            if not self._is_gone:
                yield from self._interrupted("the server stops")
        except Differs:
            yield from self._interrupted("the job was run again, and came to another text")
        except Exception as error:  # the status has gone out: say it in the stream
            logger.warning("stream failed", extra={"event": "stream.failed", "error": error})
            yield from self._interrupted("the job could not be followed any further")

    def hang_up(self) -> None:
        """End the stream, from any thread: its client has gone."""
        self._is_gone = True
        self._following.stop()

    def _told(self, event: Event) -> Iterator[str]:
        match event:
            case Silence():
                yield sse.HEARTBEAT
            case Chunk():
                yield from self._dialect.chunk(event)
            case StatusChanged(status=status) if status in ENDED:
                self.is_over = True
                yield from self._last(status)
            case StatusChanged():
                yield from self._dialect.status(event)

    def _last(self, status: Status) -> Iterator[str]:
        if status == "succeeded":
            yield from self._dialect.done()
        else:
            yield from self._dialect.failed(self._ended())

    def _interrupted(self, why: str) -> Iterator[str]:
        self.is_over = True
        where = status_url(self._job_id)
        text = f"{why}; the job goes on, its whole answer will be at {where}"
        yield from self._dialect.failed(
            StreamInterrupted(text, job_id=self._job_id, status_url=where)
        )


def data(body: dict[str, Any]) -> str:
    """Return `body` as one server-sent event."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
