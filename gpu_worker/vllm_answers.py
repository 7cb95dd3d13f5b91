"""Answers: what vLLM's serving objects take and say, read for the engine seam.

They say a response, whole or in pieces: then as server-sent events, chunks, an error perhaps, and a
last `[DONE]`. The chunks of a request together are its response, with every field of vLLM's own.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from gpu_worker.engine import EngineFailure, InvalidRequest
from scheduler.chunks import Assembly

_DATA = "data:"


async def pieces(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the JSON text of each chunk; raises the seam's error for one that vLLM tells."""
    async for event in events:
        for line in event.split("\n"):  # no other: a text may have more kinds of line breaks
            text = line.removeprefix(_DATA).strip()
            if not line.startswith(_DATA) or text == "[DONE]":
                continue
            if text.startswith('{"error"'):
                error = json.loads(text)["error"]
                raise error_of(int(error["code"]), str(error["message"]))
            yield text


def error_of(status: int, message: str) -> InvalidRequest | EngineFailure:
    """Return what an error of the serving layer means."""
    return InvalidRequest(message) if 400 <= status < 500 else EngineFailure(message)


def whole(parts: Assembly, *, with_ids: bool) -> dict[str, Any] | None:
    """Return the response that the chunks make; None if they say nothing of any choice.

    Chunks that repeat the prompt tell its ids, which a response does only where they are wanted.
    """
    body = parts.response()
    if "response" in body:  # of the Responses API, whose last event has it
        made: dict[str, Any] = body["response"]
        return made
    if not body["choices"]:
        return None
    for choice in body["choices"] if not with_ids else ():
        choice.pop("prompt_token_ids", None)
    response = _response_class(body["object"]).model_validate(body)
    filled: dict[str, Any] = response.model_dump(mode="json")
    return filled


def _response_class(kind: str) -> Any:
    """Return vLLM's class of such responses: it fills in what chunks leave out."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
    from vllm.entrypoints.openai.completion.protocol import CompletionResponse

    return ChatCompletionResponse if kind == "chat.completion" else CompletionResponse


def validated(parse: Any, body: dict[str, Any]) -> Any:
    """Return the body as vLLM's request object; InvalidRequest names the field."""
    try:
        return parse.model_validate(body)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise InvalidRequest(one_line(error)) from error
        faults = (
            f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}"
            for e in errors(include_input=False)
        )
        raise InvalidRequest("; ".join(faults)) from error


def checked(response: Any) -> dict[str, Any]:
    """Return the response as JSON; an error response is raised."""
    if (error := getattr(response, "error", None)) is not None:
        raise error_of(error.code, error.message)
    body: dict[str, Any] = response.model_dump(mode="json")
    return body


def error_response(error: Exception) -> Any:
    """Return what the serving layer would say of an error."""
    try:
        from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
    except ImportError:
        from vllm.entrypoints.serve.utils.error_response import create_error_response
    return create_error_response(error)


def one_line(error: BaseException) -> str:
    """Return what is wrong: the first fault of a validation error, else the first line."""
    errors = getattr(error, "errors", None)
    text = str(errors(include_input=False)[0]["msg"]) if errors else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("Value error, ") if lines else type(error).__name__
