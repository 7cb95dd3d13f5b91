"""Simulated answers: what SimEngine says, whole and in chunks, always that it is simulated.

Its text counts its tokens at the end, so a stream begins with HEAD, says nothing while tokens come,
and ends with their number: together the text of the whole answer.
"""

import time
from dataclasses import dataclass
from typing import Any

from gpu_worker.engine import InvalidRequest

HEAD = "[simulated: "
KINDS = {
    "/v1/completions": ("cmpl", "text_completion"),
    "/v1/chat/completions": ("chatcmpl", "chat.completion"),
}
"""Endpoint -> how its ids begin, and what its responses are called."""

Json = dict[str, Any]


def text_of(num_tokens: int) -> str:
    """Return the text of so many tokens."""
    return f"{HEAD}{num_tokens} tokens]"


def prompt_text(body: Json) -> str:
    """Return the text of a prompt or of all messages."""
    if prompt := body.get("prompt"):
        return str(prompt)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("the body needs a prompt or messages")
    return "".join(str(message.get("content", "")) for message in messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    model: str
    endpoint: str
    job_id: str
    prompt_tokens: int

    def whole(self, num_tokens: int, finish_reason: str) -> Json:
        """Return the whole response."""
        choice = self._choice("message", text_of(num_tokens), finish_reason)
        return {**self._frame(""), "choices": [choice], "usage": self._usage(num_tokens)}

    def head(self) -> Json:
        """Return the first chunk."""
        return self._chunk(HEAD, None)

    def step(self) -> Json:
        """Return the chunk of a step in between."""
        return self._chunk("", None)

    def tail(self, num_tokens: int, finish_reason: str) -> Json:
        """Return the chunk that ends the text."""
        return self._chunk(text_of(num_tokens).removeprefix(HEAD), finish_reason)

    def usage(self, num_tokens: int) -> Json:
        """Return the last chunk, with the usage."""
        return {**self._frame(".chunk"), "choices": [], "usage": self._usage(num_tokens)}

    def _chunk(self, text: str, finish_reason: str | None) -> Json:
        return {**self._frame(".chunk"), "choices": [self._choice("delta", text, finish_reason)]}

    def _choice(self, name: str, text: str, finish_reason: str | None) -> Json:
        """Return a choice, of a chat under `name`, as the message that it is."""
        said: Json = {"text": text}
        if self._is_chat:
            said = {name: {"role": "assistant", "content": text}}
        return {"index": 0, "finish_reason": finish_reason, **said}

    @property
    def _is_chat(self) -> bool:
        return self.endpoint == "/v1/chat/completions"

    def _frame(self, suffix: str) -> Json:
        prefix, kind = KINDS[self.endpoint]
        return {
            "id": f"{prefix}-{self.job_id}",
            "object": kind + suffix if self._is_chat else kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def _usage(self, num_tokens: int) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.prompt_tokens + num_tokens,
        }
