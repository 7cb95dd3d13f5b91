"""Chunks: the pieces of an OpenAI response that is streamed, and how they make the whole.

`Assembly` puts chunks together to the response that the same request gives unstreamed. `rest_of`
goes the other way: the chunks that are missing, once the whole is known and the first of them have
been seen. Both know no field by name but those of which a piece replaces what was there before.
"""

from collections.abc import Mapping
from typing import Any

_REPLACED = {"role", "id", "type", "name", "index", "finish_reason", "stop_reason"} | {
    "prompt_token_ids",
    "prompt_text",
}
"""Fields that are said whole, not piece by piece."""

_FRAME: tuple[str, ...] = ("id", "object", "created", "model")
"""What every chunk says."""

Json = dict[str, Any]


class _Pieces(list[str]):
    """A text that grows."""


class Assembly:
    """The response that chunks make."""

    def __init__(self) -> None:
        self._body: Json = {}
        self._choices: dict[int, Json] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in the next chunk."""
        for key, value in chunk.items():
            if key == "choices":
                for choice in value:
                    _merge(self._choices.setdefault(choice["index"], {}), choice)
            elif value is not None:
                self._body[key] = value

    def response(self) -> Json:
        """Return what the chunks so far make."""
        body = dict(self._body)
        if "object" in body:
            body["object"] = body["object"].removesuffix(".chunk")
        choices = sorted(self._choices.items())
        return {**body, "choices": [_whole_choice(choice) for _, choice in choices]}


def _merge(into: Json, piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        had = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif key in _REPLACED:
            into[key] = value
        elif isinstance(value, str):
            into[key] = had if isinstance(had, _Pieces) else _Pieces()
            into[key].append(value)
        elif isinstance(value, list):
            into[key] = had if isinstance(had, list) else []
            _extend(into[key], value)
        elif isinstance(value, dict):
            into[key] = had if isinstance(had, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def _extend(items: list[Any], more: list[Any]) -> None:
    """Append; what says the `index` of its place, as a tool call does, goes there."""
    for item in more:
        if not (isinstance(item, dict) and isinstance(item.get("index"), int)):
            items.append(item)
            continue
        place = next((i for i in items if i["index"] == item["index"]), None)
        if place is None:
            items.append(place := {})
        _merge(place, item)


def _whole_choice(choice: Json) -> Json:
    whole: Json = _joined(choice)
    message = whole.pop("delta", None)
    if message is None:
        return whole
    for call in message.get("tool_calls") or []:
        call.pop("index", None)
    if message.get("tool_calls") and not message.get("content"):
        message["content"] = None
    return {**whole, "message": message}


def _joined(value: Any) -> Any:
    """Return a copy in which every text is one."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {key: _joined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item) for item in value]
    return value


def rest_of(response: Json, seen: Json | None = None) -> list[Json]:
    """Return the chunks that lead from `seen` (None: nothing) to the whole `response`.

    One with the rest of every choice, and one with the usage; none of what is no such response.
    """
    choices = response.get("choices")
    if not isinstance(choices, list):
        return []
    known = {choice["index"]: choice for choice in (seen or {}).get("choices", [])}
    frame: Json = {key: response[key] for key in _FRAME if key in response}
    if frame.get("object") == "chat.completion":
        frame["object"] = "chat.completion.chunk"
    rest: list[Json] = [
        {**frame, "choices": [_rest_choice(c, known.get(c["index"], {})) for c in choices]}
    ]
    if usage := response.get("usage"):
        rest.append({**frame, "choices": [], "usage": usage})
    return rest


def _rest_choice(choice: Json, seen: Json) -> Json:
    rest = {key: _rest(key, value, seen.get(key)) for key, value in choice.items()}
    if "message" in rest:
        rest["delta"] = rest.pop("message")
    return rest


def _rest(key: str, whole: Any, seen: Any) -> Any:
    """Return what is to be added to `seen` to have the `whole`."""
    if key in _REPLACED or seen is None:
        return _indexed(key, whole)
    if isinstance(whole, str) and isinstance(seen, str):
        return whole[len(seen) :] if whole.startswith(seen) else whole
    if isinstance(whole, list) and isinstance(seen, list):
        begun = whole[: len(seen)] if key == "tool_calls" else []
        told = [{"index": n, **_rest_fields(call, seen[n])} for n, call in enumerate(begun)]
        return [*told, *_indexed(key, whole)[len(seen) :]]
    if isinstance(whole, dict) and isinstance(seen, dict):
        return _rest_fields(whole, seen)
    return whole


def _rest_fields(whole: Json, seen: Json) -> Json:
    return {key: _rest(key, value, seen.get(key)) for key, value in whole.items()}


def _indexed(key: str, value: Any) -> Any:
    """Return a value as chunks say it: tool calls with their places."""
    if key == "tool_calls" and isinstance(value, list):
        return [{"index": n, **call} for n, call in enumerate(value)]
    if isinstance(value, dict):
        return {name: _indexed(name, item) for name, item in value.items()}
    return value
