"""Transcript: a stream that goes on where its client is, whichever attempt at the job writes it.

A job whose worker died, or handed it back, is streamed from its first token again. What the client
has already is left out of that, if it is the same text; if it is not, the stream must end, because
nothing can be taken back. Of what was sent only lengths and digests are kept.

The last words of an attempt that was cut off are not passed on: the next one says them in their
place. Text is cut where the client is, in the middle of a chunk too. What cannot be cut, tool calls
and log probabilities, goes on only if a chunk begins just there.
"""

from hashlib import blake2b
from typing import Any

_TEXTS = ("text", "content", "reasoning", "reasoning_content")


class Differs(Exception):
    """Another attempt says something else than the client has."""


class Channel:
    """One text of a stream, such as the content of a choice."""

    def __init__(self) -> None:
        self._num_sent = 0
        self._digest = blake2b()
        self._num_seen = 0
        self._again = blake2b()

    def restart(self) -> None:
        """Read the text from its begin again."""
        self._num_seen = 0
        self._again = blake2b()

    def take(self, text: str) -> str:
        """Return what of the next `text` was not sent yet; Differs if it is another."""
        known = text[: self._num_sent - self._num_seen]
        new = text[len(known) :]
        self._num_seen += len(text)
        if known:
            self._again.update(_bytes(known))
            if self.is_level and self._again.digest() != self._digest.digest():
                raise Differs
        self._digest.update(_bytes(new))
        self._num_sent += len(new)
        return new

    @property
    def is_level(self) -> bool:
        """Whether all that was sent has been seen again."""
        return self._num_seen >= self._num_sent


class Channels:
    """The texts of one stream, by key."""

    def __init__(self) -> None:
        self._channels: dict[Any, Channel] = {}

    def restart(self) -> None:
        """Read all of them from their begins again."""
        for channel in self._channels.values():
            channel.restart()

    def take(self, key: Any, text: str) -> str:
        """Return what of the next `text` was not sent yet; Differs if it is another."""
        return self._channels.setdefault(key, Channel()).take(text)

    @property
    def are_level(self) -> bool:
        """Whether all that was sent has been seen again."""
        return all(channel.is_level for channel in self._channels.values())


class Transcript:
    """What the client of a streamed chat or completion has of it."""

    def __init__(self) -> None:
        self._attempt = ""
        self._choices: dict[int, _Choice] = {}
        self._created: Any = None

    def pass_on(self, attempt: str, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the client lacks of a chunk, None if nothing; Differs if it cannot go on."""
        if attempt != self._attempt:
            self._attempt = attempt
            for choice in self._choices.values():
                choice.restart()
        self._created = self._created or chunk.get("created")
        told = [c for c in chunk["choices"] if c.get("finish_reason") != "abort"]
        passed = [self._choice(choice).pass_on(choice) for choice in told]
        choices = [choice for choice in passed if choice]
        return {**chunk, "created": self._created, "choices": choices} if choices else None

    def _choice(self, choice: dict[str, Any]) -> "_Choice":
        return self._choices.setdefault(choice["index"], _Choice())


class _Choice:
    """What the client has of one choice."""

    def __init__(self) -> None:
        self._texts = Channels()
        self._is_repeat = False
        self._has_begun = False
        self._has_calls = False
        self._has_ended = False

    def restart(self) -> None:
        self._texts.restart()
        self._is_repeat = True

    def pass_on(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the client lacks of `choice`."""
        said = choice.get("delta") or choice
        taken = {name: self._texts.take(name, said[name]) for name in _TEXTS if said.get(name)}
        is_new = not self._is_repeat or self._is_new(choice, said, taken)
        self._note(choice, said)
        if not is_new:
            return None
        rest = {**said, **taken}
        return {**choice, "delta": rest} if "delta" in choice else rest

    def _is_new(self, choice: dict[str, Any], said: dict[str, Any], taken: dict[str, str]) -> bool:
        """Whether the client lacks anything of a repeated choice; Differs if it cannot be said."""
        new = "".join(taken.values())
        if (self._has_ended and new) or (self._has_calls and said.get("tool_calls")):
            raise Differs
        if choice.get("logprobs") and new and any(said[k] != v for k, v in taken.items()):
            raise Differs
        if choice.get("finish_reason") and not self._texts.are_level:
            raise Differs
        ends = choice.get("finish_reason") and not self._has_ended
        return bool(new or ends or said.get("tool_calls") or not self._has_begun)

    def _note(self, choice: dict[str, Any], said: dict[str, Any]) -> None:
        self._has_begun = True
        self._has_calls = self._has_calls or bool(said.get("tool_calls"))
        self._has_ended = self._has_ended or bool(choice.get("finish_reason"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
