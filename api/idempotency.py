"""Idempotency: a request with an `Idempotency-Key` makes one job, however often it is sent.

    Idempotency-Key: 2d7e5b54-order-17     1 to 255 visible ASCII characters, no spaces

A key belongs to a tenant and to one request: the same route with the same body, whatever the order
of its members. For as long as `SLALOM_IDEMPOTENCY_S` says, that request is answered with the job it
made, and another with the same key by 409. A request that made no job, because it was refused or a
process died, leaves its key free (`scheduler.once`).

A route hands what `of_request` returns to `Intake.accept`, and answers `AlreadyMade` with that job
and the header `REPLAYED`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import request

from api.problems import BadIdempotencyKey, IdempotencyKeyReused
from api.route import Header
from scheduler.once import Once, OtherRequest, fingerprint
from scheduler.tenants import Tenant

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY = "[!-~]{1,255}"
PARAMETER = Header(
    HEADER,
    "a key of this request's own: sent again with it, the request makes no second job",
    {"type": "string", "pattern": f"^{KEY}$", "minLength": 1, "maxLength": 255},
)


def of_request(tenant: Tenant, wanted: Any, *, kept_s: int) -> Once | None:
    """Return the key of the current request, which asks for `wanted` (JSON); None without one.

    BadIdempotencyKey if it is none that can be kept.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not re.fullmatch(KEY, key):
        raise BadIdempotencyKey("give 1 to 255 visible ASCII characters, such as a UUID")
    return Once(tenant.name, key, fingerprint(request.path, wanted), kept_s)


def refuse(why: str) -> None:
    """Raise BadIdempotencyKey with `why` where the current request has a key."""
    if HEADER in request.headers:
        raise BadIdempotencyKey(why)


@contextmanager
def conflicts() -> Iterator[None]:
    """Turn the use of a key for another request into the problem that it is."""
    try:
        yield
    except OtherRequest as error:
        text = "this key was used for another request: give each request a key of its own"
        raise IdempotencyKeyReused(text) from error
