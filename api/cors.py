"""CORS: which pages elsewhere may call the API from a browser: those that the operator names.

An origin that is named gets itself back, never a star, and no credentials are allowed: a key goes
in a header that a page sets itself, and cookies mean nothing here. That is why any header may be
sent and read. A preflight is answered before anybody asks who calls: browsers send no key with it.
"""

from collections.abc import Set
from dataclasses import dataclass
from http import HTTPStatus

from flask import Flask, Response, request

METHODS = "GET, POST, DELETE"
REQUEST_HEADERS = "Authorization, *"
"""The star does not stand for `Authorization`."""
MAX_AGE_S = 600


def register(app: Flask, origins: Set[str]) -> None:
    """Let pages of `origins` call `app`; to be registered before what asks who calls."""
    if origins:
        cors = _Cors(origins)
        app.before_request(cors.preflight)
        app.after_request(cors.allow)


@dataclass(frozen=True, slots=True)
class _Cors:
    origins: Set[str]

    def preflight(self) -> Response | None:
        """Answer a browser that asks whether its page may send a request."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        response = Response(status=HTTPStatus.NO_CONTENT)
        if request.headers.get("Origin") in self.origins:
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
            response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
        return response

    def allow(self, response: Response) -> Response:
        """Let the page read the answer, if its origin is named."""
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in self.origins:
            response.headers["Access-Control-Allow-Origin"] = str(origin)
            response.headers["Access-Control-Expose-Headers"] = "*"
        return response
