"""Endpoints: vLLM's serving objects for embeddings and responses, made to answer as for chats.

The one for chats takes a request object and returns an object to be dumped, or
server-sent events as text. Embeddings have several request classes, and are answered as HTTP
responses. Responses are streamed as objects, and would stay in memory if their requests had it so.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gpu_worker.engine import InvalidRequest

Endpoint = tuple[Any, Any]
"""What validates the requests, and the coroutine function that serves them."""


class _Answer:
    """An answer that is JSON already."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return it."""
        return self._body


def more_endpoints(state: Any) -> dict[str, Endpoint]:
    """Return what the model can do beside chats and completions."""
    found: dict[str, Endpoint] = {}
    if embedding := getattr(state, "serving_embedding", None):
        found["/v1/embeddings"] = _embeddings(embedding)
    if responses := getattr(state, "openai_serving_responses", None):
        found["/v1/responses"] = _responses(responses)
    return found


def _embeddings(serving: Any) -> Endpoint:
    from pydantic import TypeAdapter
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

    class Parse:
        model_validate = TypeAdapter(EmbeddingRequest).validate_python

    async def embed(request: Any, _: None) -> Any:
        if request.encoding_format not in {"float", "base64"}:
            raise InvalidRequest("encoding_format: must be float or base64")
        answer = await serving(request, None)
        return _Answer(json.loads(answer.body)) if hasattr(answer, "body") else answer

    return Parse, embed


def _responses(serving: Any) -> Endpoint:
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    async def respond(request: Any, _: None) -> Any:
        request.store = request.background = False
        request.previous_response_id = None
        answer = await serving.create_responses(request, None)
        if isinstance(answer, AsyncGenerator):
            return _events(answer)
        if getattr(answer, "error", None) is not None:
            return answer
        return _Answer(answer.model_dump(mode="json", by_alias=True))

    return ResponsesRequest, respond


async def _events(objects: AsyncIterator[Any]) -> AsyncGenerator[str]:
    async for event in objects:
        yield f"data: {event.model_dump_json(by_alias=True)}\n\n"
