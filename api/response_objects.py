"""Response objects: a job, as OpenAI's Responses API shows it.

The store is the job store: a response is a job at `/v1/responses`, with the id `resp_{job}`, for as
long as its tier keeps results. Once it has succeeded its object is what vLLM made; before, and if
it never does, what was asked for, with the status:

    queued -> queued       running -> in_progress     canceled -> cancelled
    succeeded -> completed, or incomplete as vLLM says          failed, expired -> failed
"""

from typing import Any

from api.problems import Invalid, ResponseNotFound
from api.service_tier import word_of
from config.tiers import TierTable
from scheduler.jobs import JobView, Status

ENDPOINT = "/v1/responses"
PREFIX = "resp_"

_STATUS: dict[Status, str] = {
    "queued": "queued",
    "running": "in_progress",
    "canceled": "cancelled",
    "failed": "failed",
    "expired": "failed",
}
_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "reasoning": None,
    "temperature": None,
    "text": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What of a request its response repeats, and what that is where the request says nothing."""


def response_id(job_id: str) -> str:
    """Return the id of the response of a job."""
    return PREFIX + job_id


def job_id_of(response_id: str) -> str:
    """Return the id of the job of a response; ResponseNotFound if it cannot be one's."""
    if not response_id.startswith(PREFIX):
        raise not_found()
    return response_id.removeprefix(PREFIX)


def not_found() -> ResponseNotFound:
    """Return the problem of a response that is not there."""
    return ResponseNotFound(
        "there is no response of this id: it never was, was not stored, or has expired"
    )


def response_object(view: JobView, tiers: TierTable) -> dict[str, Any]:
    """Return the response that the job is."""
    body = view.request["body"] if view.request else {}
    made = made_by_engine(view) or _asked(view, body)
    return {
        **made,
        "id": response_id(view.id),
        "status": _STATUS.get(view.status) or made.get("status", "completed"),
        "error": _error(view),
        "background": bool(body.get("background")),
        "store": is_stored(view),
        "previous_response_id": body.get("previous_response_id"),
        "metadata": view.metadata,
        "service_tier": word_of(view.tier or "", tiers),
    }


def made_by_engine(view: JobView) -> dict[str, Any] | None:
    """Return vLLM's response object, None if there is none."""
    made = view.response
    return made if isinstance(made, dict) and made.get("object") == "response" else None


def is_stored(view: JobView) -> bool:
    """Whether the response may be asked for later."""
    return not view.request or view.request["body"].get("store") is not False


def conversation(view: JobView) -> list[Any]:
    """Return what a next request goes on from: all that was said, and the answer."""
    made = made_by_engine(view)
    if view.status != "succeeded" or not made or not view.request:
        text = f"that response is {view.status}: only a completed one can be gone on from"
        raise Invalid([{"field": "previous_response_id", "message": text}])
    return [*items(view.request["body"].get("input")), *made.get("output", [])]


def items(given: Any) -> list[Any]:
    """Return an `input` as a list."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, list):
        return given
    raise Invalid([{"field": "input", "message": "must be a string, or a list of items"}])


def _asked(view: JobView, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "response",
        "created_at": int(view.created_at.timestamp()),
        "model": body.get("model"),
        "output": [],
        "usage": None,
        "incomplete_details": None,
        **{name: body.get(name, default) for name, default in _DEFAULTS.items()},
    }


def _error(view: JobView) -> dict[str, str] | None:
    if not view.failure:
        return None
    return {"code": view.failure["code"], "message": view.failure["message"]}
