"""Response streams: a job at `/v1/responses` as the events of OpenAI's Responses API.

The first and the last events are ours, made from the job: created, queued (of a response in the
background), in_progress; and completed, incomplete or failed with the whole response. What is in
between is vLLM's. Events are numbered anew by what a follower of the job sees from its begin, which
is the same for everybody: a client that comes back names the last number it has and gets the rest.
Another attempt at the job goes on where the first one ended, or ends the stream: `api.transcript`.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from api.follow import Chunk, StatusChanged
from api.openai_errors import error_of
from api.problems import Problem, StreamInterrupted
from api.transcript import Channels, Differs

_OURS = {
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.completed",
    "response.incomplete",
    "response.failed",
}
_LAST = {"completed": "response.completed", "incomplete": "response.incomplete"}
_PLACE = ("output_index", "content_index", "summary_index", "annotation_index")

Show = Callable[[], dict[str, Any]]
"""Returns the response object as it is now."""


class ResponseDialect:
    """The events of one response to one client, those after number `after`."""

    def __init__(self, show: Show, *, is_background: bool, after: int = -1) -> None:
        self._show = show
        self._is_background = is_background
        self._after = after
        self._next = 0
        self._asked: dict[str, Any] | None = None
        """The response as it was first shown."""
        self._attempt = ""
        self._texts = Channels()
        self._said: set[Any] = set()
        self._item_ids: dict[int, str] = {}
        self._held: list[dict[str, Any]] = []
        """Ends of items, until it is known that they are no ends of an attempt that was cut off."""

    def status(self, event: StatusChanged) -> Iterator[str]:
        """Yield the begin, as far as it has come."""
        yield from self._created()
        if event.status == "running":
            yield from self._in_progress()

    def chunk(self, event: Chunk) -> Iterator[str]:
        """Yield what of vLLM's event the client lacks."""
        yield from self._created()
        yield from self._in_progress()
        attempt = event.id.partition("-")[0]
        if attempt != self._attempt:
            self._attempt = attempt
            self._texts.restart()
            self._held.clear()
        body = json.loads(event.body)
        if body["type"] in _OURS:
            return
        if not body["type"].endswith(".done"):
            yield from self._release()
            yield from self._pass_on(body)
        else:
            self._held.append(body)

    def done(self) -> Iterator[str]:
        """Yield the last event, with the whole response."""
        yield from self._release()
        if not self._texts.are_level:
            raise Differs
        yield from self._last()

    def failed(self, problem: Problem) -> Iterator[str]:
        """Yield the last event of a response that failed, or of a stream that did."""
        if not isinstance(problem, StreamInterrupted):
            yield from self._last()
            return
        error = error_of(problem)
        named = {name: error[name] for name in ("code", "message", "param")}
        yield from self._tell({"type": "error", **named}, is_last=True)

    def _release(self) -> Iterator[str]:
        held, self._held = self._held, []
        for body in held:
            yield from self._pass_on(body)

    def _pass_on(self, body: dict[str, Any]) -> Iterator[str]:
        if self._is_new(body):
            yield from self._tell(body)

    def _created(self) -> Iterator[str]:
        if self._next == 0:
            yield from self._tell_state("response.created", "queued")
            if self._is_background:
                yield from self._tell_state("response.queued", "queued")

    def _in_progress(self) -> Iterator[str]:
        if "response.in_progress" not in self._said:
            self._said.add("response.in_progress")
            yield from self._tell_state("response.in_progress", "in_progress")

    def _last(self) -> Iterator[str]:
        yield from self._created()
        response = self._show()
        kind = _LAST.get(response["status"], "response.failed")
        yield from self._tell({"type": kind, "response": response}, is_last=True)

    def _tell_state(self, kind: str, status: str) -> Iterator[str]:
        if self._next <= self._after:  # nobody will read it
            self._next += 1
            return
        self._asked = self._asked or self._show()
        state: dict[str, Any] = {"status": status, "output": [], "usage": None, "error": None}
        yield from self._tell({"type": kind, "response": {**self._asked, **state}})

    def _is_new(self, body: dict[str, Any]) -> bool:
        """Whether the client lacks any of the event, which is cut to that; Differs if it cannot."""
        self._keep_item_id(body)
        key = (body["type"], *(body.get(name) for name in _PLACE))
        if isinstance(body.get("delta"), str):
            had = body["delta"]
            body["delta"] = self._texts.take(key, had)
            return bool(body["delta"] or not had)
        if key in self._said:
            return False
        if not self._texts.are_level:
            raise Differs
        self._said.add(key)
        return True

    def _keep_item_id(self, body: dict[str, Any]) -> None:
        """Name an item as the first attempt did."""
        place, item = body.get("output_index"), body.get("item")
        if place is None:
            return
        if isinstance(item, dict) and "id" in item:
            item["id"] = self._item_ids.setdefault(place, item["id"])
        if "item_id" in body:
            body["item_id"] = self._item_ids.get(place, body["item_id"])

    def _tell(self, body: dict[str, Any], *, is_last: bool = False) -> Iterator[str]:
        number, self._next = self._next, self._next + 1
        if is_last:
            number = max(number, self._after + 1)
        if number > self._after:
            text = json.dumps({**body, "sequence_number": number}, separators=(",", ":"))
            yield f"event: {body['type']}\ndata: {text}\n\n"
