"""Security headers: what a browser may do with an answer, which is next to nothing.

Answers hold prompts and outputs: nobody keeps them, frames them, guesses at their type or learns
from a link where they were read. A route that serves a page sets what that page needs itself.
`Strict-Transport-Security` is sent only where the operator says that the API is behind TLS.
"""

from dataclasses import dataclass

from flask import Flask, Response

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def register(app: Flask, *, hsts_s: int | None) -> None:
    """Add the headers to every answer of `app`."""
    app.after_request(_Headers(hsts_s).add)


@dataclass(frozen=True, slots=True)
class _Headers:
    hsts_s: int | None

    def add(self, response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if self.hsts_s is not None:
            response.headers["Strict-Transport-Security"] = f"max-age={self.hsts_s}"
        return response
