"""Access log: one line per request, its numbers in `key=value`; what clients send is not in it."""

import logging
import time

from flask import Flask, Response, g, request

logger = logging.getLogger(__name__)

_PROBES = {"/healthz", "/readyz"}


def register(app: Flask) -> None:
    """Log every request of `app`; successful probes only at DEBUG."""
    app.before_request(_started)
    app.after_request(_done)


def _started() -> None:
    g.started = time.perf_counter()


def _done(response: Response) -> Response:
    probe = request.path in _PROBES and response.status_code < 400
    extra = {
        "event": "request.done",
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "duration_s": time.perf_counter() - g.started,
        "client": request.remote_addr,
    }
    logger.log(logging.DEBUG if probe else logging.INFO, "request done", extra=extra)
    return response
