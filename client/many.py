"""Many: the jobs in the lines of a file, submitted in their order, each accepted or refused alone.

Lines go to `POST /v1/jobs:batch` as they come, up to MOST_JOBS in a request. They go one by one, a
few at once, where the server has no such route, where it refuses a list as a whole, and where each
must have an Idempotency-Key: `KEY:LINE`, so that the same file with the same KEY makes no job
twice. A job that is refused only for now is sent again by itself, with patience.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, field

from client import given
from client.command import Session
from client.failure import DONE, JOB_FAILED, Failure, Json, Lost, Misused, Refused
from client.ordered import each, ordered
from client.wait import tell

MOST_JOBS = 200
MOST_BYTES = 1 << 20
AT_ONCE = 8

_AS_ONE = frozenset({400, 404, 405, 413, 422})
"""Answers that are about the list, and not about the jobs."""
_FOR_NOW = frozenset({429, 503})


class BadLine(Misused):
    """A line holds no job."""

    code = "bad_line"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file: the body of a job, or what is wrong with it."""

    number: int
    size: int
    body: Json | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class Submission:
    """The lines of one file on their way."""

    session: Session
    key: str | None
    accepted: dict[int, str] = field(default_factory=dict)
    """Line -> id of its job."""
    num_failed: int = 0
    has_batches: bool = True

    async def run(self, path: str, defaults: Json) -> AsyncGenerator[tuple[int, Json | Failure]]:
        """Yield what became of each line, in their order."""
        note = self.session.terminal.note
        async for found in given.lines(path, note):
            for lines in chunks(read(number, text, defaults) for number, text in found):
                async for line, outcome in self._send(lines):
                    self._count(line, outcome)
                    yield line.number, outcome

    def _count(self, line: Line, outcome: Json | Failure) -> None:
        if isinstance(outcome, Failure):
            self.num_failed += 1
        else:
            self.accepted[line.number] = str(outcome["id"])

    async def _send(self, lines: list[Line]) -> AsyncGenerator[tuple[Line, Json | Failure]]:
        outcomes = await self._together([line for line in lines if line.body is not None])

        async def settle(line: Line) -> tuple[Line, Json | Failure]:
            if line.failure:
                return line, line.failure
            return line, outcomes.get(line.number) or await self._alone(line)

        async for settled in ordered(each(lines), settle, at_once=AT_ONCE):
            yield settled

    async def _together(self, lines: list[Line]) -> dict[int, Json | Failure]:
        """Send lines in one request; return those outcomes that are settled by that."""
        if self.key or not self.has_batches or len(lines) < 2:
            return {}
        jobs = {"jobs": [line.body for line in lines]}
        try:
            answer = await self.session.server.post("/v1/jobs:batch", jobs)
        except Lost as lost:
            return {line.number: lost for line in lines}
        except Refused as refused:
            if refused.http_status not in _AS_ONE:
                raise
            self.has_batches = refused.http_status not in {404, 405}
            return {}
        items = zip(lines, answer["items"], strict=True)
        return {line.number: outcome for line, item in items if (outcome := _settled(item))}

    async def _alone(self, line: Line) -> Json | Failure:
        """Send one line; return its job, or why there is none."""
        key = f"{self.key}:{line.number}" if self.key else None
        try:
            return await self.session.server.post("/v1/jobs", line.body or {}, key=key)
        except Refused as refused:
            if refused.http_status == 401:
                raise
            return refused
        except Lost as lost:
            return lost


async def submit_lines(
    session: Session, path: str, defaults: Json, *, key: str | None, is_waited_for: bool
) -> int:
    """Submit the lines of a file; write ids, or outcomes if they are waited for."""
    submission = Submission(session, key)
    terminal = session.terminal
    with terminal.progress("submitting", None) as advance:
        async for number, outcome in submission.run(path, defaults):
            advance(1)
            if isinstance(outcome, Failure):
                session.refused(outcome, {"line": number})
            elif is_waited_for:
                session.awaited[str(outcome["id"])] = None
            elif terminal.as_json:
                terminal.json({"line": number, "job": outcome})
            else:
                terminal.line(str(outcome["id"]))
    num_accepted, num_failed = len(submission.accepted), submission.num_failed
    if num_failed:
        terminal.note(f"{num_failed} of {num_accepted + num_failed} lines failed")
    else:
        terminal.hint(f"{num_accepted} jobs accepted")
    status = JOB_FAILED if submission.num_failed else DONE
    if not is_waited_for:
        return status
    jobs = [({"line": number}, job_id) for number, job_id in submission.accepted.items()]
    return max(status, await tell(session, each(jobs), total=len(jobs)))


def read(number: int, text: bytes, defaults: Json) -> Line:
    """Return the line, with `defaults` for what it leaves out."""
    try:
        return Line(number, len(text), given.job_in(text, defaults))
    except given.BadLine as error:
        return Line(number, len(text), failure=BadLine(str(error)))


def chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield lines in requests of at most MOST_JOBS and, but for a single one, MOST_BYTES."""
    chunk: list[Line] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) == MOST_JOBS or size + line.size > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += line.size
    if chunk:
        yield chunk


def _settled(item: Json) -> Json | Failure | None:
    """Return the job or the refusal in an outcome; None where it should be tried again."""
    if "job" in item:
        job: Json = item["job"]
        return job
    status, problem = int(item["status"]), item.get("error") or {}
    refused = Refused(status, problem)
    return None if status in _FOR_NOW and not refused.may_be_done else refused
