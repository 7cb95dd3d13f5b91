"""Batch results: how the jobs of a batch ended, as lines of its output file and its error file.

A line whose request was answered stands in the output file, any other in the error file. Both have
OpenAI's form: a request that got an error has a `response` with its status and the error as a body,
one that never got so far has an `error` instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler import keys
from scheduler.batch_lines import LineFault
from scheduler.batch_record import NO_USAGE, Usage
from scheduler.jobs import EXPIRED, STATUS, failure

UNDONE = {
    "expired": "the request was not answered before the completion window of the batch had passed",
    "cancelled": "the request was not answered before the batch was cancelled",
    "failed": "the request was not answered before the batch failed",
}
LOST_TEXT = "the record of the request was deleted before its result was collected"
_BAD_REQUEST, _SERVER_ERROR, _TIMEOUT = 400, 500, 504
_STATUS_OF = {"invalid_request": _BAD_REQUEST, "timeout": _TIMEOUT}
"""Codes of failed jobs -> HTTP status; any other is a failure of the server."""

_ENDED = {
    status.value.encode(): STATUS[status]
    for status in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)
}


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended; with `response` it succeeded."""

    response: dict[str, Any] | None = None
    code: str = ""
    message: str = ""
    queue: str | None = None
    """Where RQ keeps it in a registry; None if its record has gone."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A line of the output file, or of the error file."""

    text: str
    is_answer: bool
    usage: Usage = NO_USAGE
    model: str | None = None


def read_ends(connection: Redis, job_ids: Sequence[str]) -> list[JobEnd | None]:
    """Return how jobs ended; None for one that has not."""
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hmget(Job.key_for(job_id), "status", "origin", "meta")
            pipeline.xrevrange(f"rq:results:{job_id}", count=1)
        replies = pipeline.execute()
    pairs = zip(job_ids, replies[::2], replies[1::2], strict=True)
    return [_end(connection, job_id, fields, results) for job_id, fields, results in pairs]


def _end(connection: Redis, job_id: str, fields: list[Any], results: list[Any]) -> JobEnd | None:
    status, origin, meta = fields
    if status is None:
        return JobEnd(code="result_lost", message=LOST_TEXT)
    if status not in _ENDED:
        return None
    queue = (origin or b"").decode()
    match _ENDED[status]:
        case "succeeded":
            result = _result(connection, job_id, results)
            if result and isinstance(result.return_value, dict):
                return JobEnd(response=result.return_value, queue=queue)
            return JobEnd(code="result_lost", message=LOST_TEXT, queue=queue)
        case "failed":
            result = _result(connection, job_id, results)
            cause = failure(_json(meta), result.exc_string if result else None)
            return JobEnd(code=cause["code"], message=cause["message"], queue=queue)
    return JobEnd(code="canceled", message="the job was canceled", queue=queue)


def _result(connection: Redis, job_id: str, results: list[Any]) -> Result | None:
    """Return the latest result; None if there is none that can be read."""
    try:
        [(result_id, payload)] = results
        return Result.restore(job_id, result_id.decode(), payload, connection, JSONSerializer)
    except (ValueError, KeyError, TypeError):
        return None


def _json(text: bytes | None) -> dict[str, Any]:
    try:
        meta = json.loads(text or b"{}")
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def line_of(job_id: str, custom_id: str, end: JobEnd, *, outcome: str) -> ResultLine:
    """Return the line for a job that ended, in a batch that will have this `outcome`."""
    if end.response is not None:
        reply = {"status_code": 200, "request_id": job_id, "body": end.response}
        usage, model = _usage(end.response), end.response.get("model")
        return ResultLine(_line(job_id, custom_id, response=reply), True, usage, model)
    if end.code == EXPIRED:
        return undone(job_id, custom_id, "expired")
    if end.code == "canceled" and outcome in UNDONE:
        return undone(job_id, custom_id, outcome)
    if end.code in {"canceled", "result_lost"}:
        fault = {"code": end.code, "message": end.message}
        return ResultLine(_line(job_id, custom_id, error=fault), False)
    status = _STATUS_OF.get(end.code, _SERVER_ERROR)
    return _refusal(job_id, custom_id, status, end.code, end.message, None)


def line_of_fault(job_id: str, number: int, fault: LineFault) -> ResultLine:
    """Return the line for a line of the input that was no request."""
    text = f"line {number}: {fault.message}"
    return _refusal(job_id, fault.custom_id, _BAD_REQUEST, fault.code, text, fault.param)


def undone(job_id: str, custom_id: str, outcome: str) -> ResultLine:
    """Return the line for a request that was not answered in a batch of that outcome."""
    fault = {"code": f"batch_{outcome}", "message": UNDONE[outcome]}
    return ResultLine(_line(job_id, custom_id, error=fault), False)


def _refusal(
    job_id: str, custom_id: str | None, status: int, code: str, message: str, param: str | None
) -> ResultLine:
    kind = "invalid_request_error" if status == _BAD_REQUEST else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    reply = {"status_code": status, "request_id": job_id, "body": {"error": error}}
    return ResultLine(_line(job_id, custom_id, response=reply), False)


def _line(
    job_id: str, custom_id: str | None, *, response: object = None, error: object = None
) -> str:
    request_id = f"batch_req_{job_id.removeprefix('batch_')}"
    line = {"id": request_id, "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, separators=(",", ":")) + "\n"


def _usage(response: dict[str, Any]) -> Usage:
    """Return the tokens of an answer, by whichever names its endpoint has."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return NO_USAGE
    return Usage(
        _count(usage, "prompt_tokens") or _count(usage, "input_tokens"),
        _count(usage.get("prompt_tokens_details"), "cached_tokens")
        or _count(usage.get("input_tokens_details"), "cached_tokens"),
        _count(usage, "completion_tokens") or _count(usage, "output_tokens"),
        _count(usage.get("completion_tokens_details"), "reasoning_tokens")
        or _count(usage.get("output_tokens_details"), "reasoning_tokens"),
    )


def _count(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def forget(client: Redis, ends: Mapping[str, JobEnd], tenant: str) -> None:
    """Delete, or add to a transaction that deletes, all that is kept of a tenant's ended jobs."""
    names = [Job.key_for(job_id) for job_id in ends]
    client.delete(*names, *(f"{name}:dependents" for name in names))
    client.delete(*(f"rq:{what}:{job_id}" for job_id in ends for what in ("results", "executions")))
    client.zrem(keys.jobs(tenant), *ends)
    by_queue: dict[str, list[str]] = {}
    for job_id, end in ends.items():
        if end.queue:
            by_queue.setdefault(end.queue, []).append(job_id)
    for queue, job_ids in by_queue.items():
        registries = (f"rq:{registry}:{queue}" for registry in ("finished", "failed", "canceled"))
        for key in (*registries, keys.deadlines(queue), keys.promotions(queue)):
            client.zrem(key, *job_ids)
