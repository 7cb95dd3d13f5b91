"""Server-sent events: how a stream is written, and a response that is one.

A client that reads nothing for SEND_TIMEOUT_S is cut off: it would hold a thread for ever. What it
has not read by then stays in Redis, and it may come back for it.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from socket import SO_SNDTIMEO, SOL_SOCKET
from typing import Any

from flask import Response

SEND_TIMEOUT_S = 60
HEARTBEAT = ":\n\n"
"""A comment: clients skip it, and whoever carries it keeps the connection open."""


def event(kind: str, event_id: str, data: str) -> str:
    """Return one event; `data` on one line."""
    return f"event: {kind}\nid: {event_id}\ndata: {data}\n\n"


def json_event(kind: str, event_id: str, data: Mapping[str, Any]) -> str:
    """Return one event with JSON."""
    return event(kind, event_id, json.dumps(data, separators=(",", ":")))


def respond(
    environ: Mapping[str, Any], frames: Iterator[str], close: Callable[[], None]
) -> Response:
    """Return a response that sends `frames`; `close` is called at its end, however that comes."""
    limit_sends(environ)
    response = Response(frames, mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"  # a proxy would hold the tokens back
    response.call_on_close(close)
    return response


def limit_sends(environ: Mapping[str, Any]) -> None:
    """Have a send to the client fail that makes no progress for SEND_TIMEOUT_S."""
    if connection := environ.get("gunicorn.socket"):
        connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("@ll", SEND_TIMEOUT_S, 0))
