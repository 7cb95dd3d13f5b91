"""Batch lines: the input of a batch, a line at a time, each a request or a fault of its own.

A line is `{"custom_id": …, "method": "POST", "url": <the batch's endpoint>, "body": {…}}`. What is
wrong with one line fails that line; what is wrong with the file fails the batch (`Inspection`). A
file is read from any byte on, as far as one step goes, and never held whole. Lines are counted from
1, empty ones too, but they mean nothing.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from config.tiers import TierTable
from scheduler.files import PIECE_BYTES
from scheduler.jobs import Request

MAX_CUSTOM_ID = 512
NO_PREFERENCE = (None, "auto")

ReadPiece = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in the file; no `data` if it is too long, or empty."""

    number: int
    end: int
    """Where the next one begins."""
    data: bytes | None
    is_blank: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that can be a job."""

    custom_id: str
    request: Request
    tier: str


@dataclass(frozen=True, slots=True)
class LineFault:
    """A line that cannot; `custom_id` as far as it is known."""

    custom_id: str | None
    code: str
    message: str
    param: str | None = None


class _Bad(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class _Pieces(io.RawIOBase):
    """The bytes of a file from `at` on."""

    def __init__(self, read: ReadPiece, size: int, at: int) -> None:
        self._read_piece, self._size, self._at = read, size, at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        number, offset = divmod(self._at, PIECE_BYTES)
        data = self._read_piece(number)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_lines(
    read: ReadPiece, size: int, *, at: int = 0, number: int = 0, max_bytes: int
) -> Iterator[RawLine]:
    """Yield the lines of a file of `size` bytes that begin at byte `at`, after `number` lines."""
    with io.BufferedReader(_Pieces(read, size, at), PIECE_BYTES) as stream:
        while data := stream.readline(max_bytes + 1):
            number, is_whole = number + 1, data.endswith(b"\n") or len(data) <= max_bytes
            at += len(data)
            while not is_whole:
                skipped = stream.readline(PIECE_BYTES)
                at, is_whole = (
                    at + len(skipped),
                    len(skipped) < PIECE_BYTES or skipped[-1:] == b"\n",
                )
                data = b""
            if not data:
                yield RawLine(number, at, None)
                continue
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            yield RawLine(number, at, data, is_blank=not data.strip())


@dataclass(frozen=True, slots=True)
class LineRules:
    """What a line is held to; `models` that are served, empty where none is known yet."""

    endpoint: str
    tier: str
    tiers: TierTable
    default_model: str
    models: Sequence[str] = ()

    def judge(self, data: bytes | None, *, is_doubled: bool = False) -> Entry | LineFault:
        """Return what a line is; `data` None: it is too long to be read."""
        custom_id = None
        try:
            if data is None:
                raise _Bad("line_too_long", "the line is too long")
            line = _object(data)
            custom_id = _custom_id(line)
            if is_doubled:
                text = "an earlier line has this custom_id; each may stand in one line only"
                raise _Bad("duplicate_custom_id", text, "custom_id")
            return self._entry(custom_id, line)
        except _Bad as bad:
            return LineFault(custom_id, bad.code, bad.message, bad.param)

    def _entry(self, custom_id: str, line: dict[str, Any]) -> Entry:
        if line.get("method") != "POST":
            raise _Bad("invalid_method", "method must be POST", "method")
        if line.get("url") != self.endpoint:
            text = f"url must be the endpoint of the batch, {self.endpoint}"
            raise _Bad("invalid_url", text, "url")
        body = line.get("body")
        if not isinstance(body, dict):
            raise _Bad("invalid_body", "body must be an object", "body")
        if body.get("stream"):
            raise _Bad("invalid_stream", "stream must be false in a batch", "body.stream")
        tier = self._tier(body.get("service_tier"))
        self._check_length(body, tier)
        request = Request(endpoint=self.endpoint, body={**body, "model": self._model(body)})
        return Entry(custom_id, request, tier)

    def _model(self, body: dict[str, Any]) -> str:
        model = body.get("model")
        if model is None:
            return self.default_model
        if not isinstance(model, str):
            raise _Bad("invalid_model", "model must be a string", "body.model")
        if self.models and model not in {self.default_model, *self.models}:
            text = f"there is no such model; use one of {', '.join(self.models)}"
            raise _Bad("model_not_found", text, "body.model")
        return model

    def _tier(self, service_tier: object) -> str:
        """Return the line's own tier where it is less urgent than the batch's, else that."""
        if service_tier in NO_PREFERENCE:
            return self.tier
        named = self.tiers.tier_for(service_tier) if isinstance(service_tier, str) else None
        if named is None:
            known = ", ".join(s for t in self.tiers.tiers.values() for s in t.service_tiers)
            text = f"there is no such service_tier; use one of {known}"
            raise _Bad("invalid_service_tier", text, "body.service_tier")
        both = (self.tier, named)
        return max(both, key=lambda name: self.tiers.tiers[name].priority)

    def _check_length(self, body: dict[str, Any], tier: str) -> None:
        most = self.tiers.tiers[tier].limits.max_tokens
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            asked = body.get(name)
            if isinstance(asked, int) and asked > most:
                text = f"{name} must be at most {most} in tier {tier}"
                raise _Bad("invalid_max_tokens", text, f"body.{name}")


def custom_id_of(data: bytes) -> str | None:
    """Return the custom_id of a line; None if it has none that counts."""
    try:
        return _custom_id(_object(data))
    except _Bad:
        return None


def _object(data: bytes) -> dict[str, Any]:
    try:
        line = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _Bad("invalid_json_line", "the line is not valid JSON") from None
    if not isinstance(line, dict):
        raise _Bad("invalid_json_line", "the line must be a JSON object")
    return line


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _custom_id(line: dict[str, Any]) -> str:
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        text = f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters"
        raise _Bad("invalid_custom_id", text, "custom_id")
    return custom_id
