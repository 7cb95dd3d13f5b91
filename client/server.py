"""Server: the API at one address, asked with one key, and with patience.

What the server refuses for now (429 or 503 with Retry-After) is asked again after that time. A
connection that broke is made again, unless nobody has ever answered, which is told at once. A POST
is sent once: where it may have arrived (the connection broke, or the answer names an `instance`)
only one with an Idempotency-Key goes out again.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2
from httpx2 import ServerSentEvent

from client.failure import Json, Lost, Misused, Refused, Unreachable
from client.patience import Note, Notes, Patience

CONNECT_S = 5.0
READ_S = 90.0
"""Longer than the server lets anybody wait; a stream that is silent for so long is broken."""

MOST_CONNECTIONS = 32
KEEP_ALIVE_S = 2.0
"""Shorter than gunicorn's: a request must not meet a connection that is being closed."""

IDEMPOTENCY_KEY = "Idempotency-Key"


class Server:
    """The API; a context manager."""

    def __init__(self, url: str, api_key: str | None, *, patience_s: float, note: Note) -> None:
        """Connect to nothing yet; Misused if the address or the key cannot be used."""
        self.url = _checked_url(url)
        self._patience_s = patience_s
        self._notes = Notes(note)
        self.has_answered = False
        """Whether anybody ever answered at the address."""
        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers={"User-Agent": "slalom-client", **_authorization(api_key)},
            timeout=httpx2.Timeout(READ_S, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, **query: Any) -> Json:
        """Return what `path` shows."""
        return await self.call("GET", path, query=query)

    async def post(self, path: str, body: Json, *, key: str | None = None) -> Json:
        """Send `body`; `key` makes it safe to send it twice."""
        headers = {IDEMPOTENCY_KEY: key} if key else {}
        return await self.call("POST", path, body=body, headers=headers)

    async def delete(self, path: str, **query: Any) -> Json:
        """Delete what is at `path`; deleting it twice does no more."""
        return await self.call("DELETE", path, query=query)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Return the JSON of the answer; a Failure says what came instead."""
        request = self._request(method, path, body, query or {}, headers or {})
        is_repeatable = method != "POST" or IDEMPOTENCY_KEY in request.headers
        patience = self.patience()
        while True:
            try:
                answer = await self._client.send(request)
            except httpx2.RequestError as error:
                await self._recover(error, patience, is_repeatable=is_repeatable)
                continue
            self.has_answered = True
            if answer.is_success:
                return self._read(answer)
            refused = self._refusal(answer)
            if refused.retry_after_s is None or (refused.may_be_done and not is_repeatable):
                raise refused
            await patience.wait(refused, refused.retry_after_s)

    def _request(
        self,
        method: str,
        path: str,
        body: Json | None,
        query: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> httpx2.Request:
        """Return the request; Misused if what was given cannot be sent."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            content = None if body is None else json.dumps(body)
            return self._client.build_request(
                method, path, content=content, params=_given(query), headers={**kind, **headers}
            )
        except UnicodeEncodeError as error:
            raise Misused("what was given is not valid UTF-8") from error
        except RecursionError as error:
            raise Misused("what was given is nested too deeply") from error

    async def events(self, path: str, after: str | None) -> AsyncGenerator[ServerSentEvent]:
        """Yield the events of a stream behind the one called `after`, until it ends or breaks.

        Refused if there is no such stream, Unreachable when it breaks.
        """
        headers = {"Last-Event-ID": after} if after else {}
        async with AsyncExitStack() as stack:
            try:
                source = await stack.enter_async_context(self._client.sse(path, headers=headers))
                self.has_answered = True
                if source.response.status_code == httpx2.codes.NO_CONTENT:
                    return
                if not source.response.is_success:
                    await source.response.aread()
                    raise self._refusal(source.response)
                async for event in source:
                    yield event
            except httpx2.RequestError as error:
                raise self._unreachable(error) from error

    def patience(self) -> Patience:
        """Return the patience for one request."""
        return Patience(self._patience_s, self._notes)

    async def _recover(
        self, error: httpx2.RequestError, patience: Patience, *, is_repeatable: bool
    ) -> None:
        """Wait until the request may be sent again; raise what happened if it may not."""
        unreachable = self._unreachable(error)
        if not self.has_answered:
            raise unreachable from error
        if not (is_repeatable or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)):
            text = f"the connection to {self.url} broke before the answer came; what was asked for"
            raise Lost(f"{text} may have been done: look before doing it again") from error
        await patience.wait(unreachable)

    def _unreachable(self, error: httpx2.RequestError) -> Unreachable:
        if not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Unreachable(f"the connection to {self.url} broke: {_reason(error)}")
        hint = "`make run` starts Slalom here; --url or SLALOM_URL names another address"
        return Unreachable(f"cannot reach {self.url}: {_reason(error)}; {hint}")

    def _read(self, answer: httpx2.Response) -> Json:
        if answer.status_code == httpx2.codes.NO_CONTENT:
            return {}
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise self._stranger(answer)
        return body

    def _refusal(self, answer: httpx2.Response) -> Refused:
        """Return the failure that an answer is which is no success; Unreachable for a redirect."""
        if not answer.is_error:
            raise self._stranger(answer)
        try:
            problem = answer.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"title": answer.reason_phrase}
        return Refused(answer.status_code, problem, _retry_after_s(answer))

    def _stranger(self, answer: httpx2.Response) -> Unreachable:
        kind = answer.headers.get("content-type", "nothing that can be read")
        text = f"{self.url} answers, but not as Slalom does (HTTP {answer.status_code}, {kind})"
        return Unreachable(f"{text}; is it the right address?")


def job_path(job_id: str, *more: str) -> str:
    """Return the path of a job; Misused if `job_id` can be no id."""
    return "/".join(["/v1/jobs", segment(job_id), *more])


def segment(job_id: str) -> str:
    """Return `job_id` as a part of a path; Misused if it can be none."""
    if not job_id.strip(".") or not job_id.isprintable() or len(job_id) > 500:
        raise Misused(f"{job_id[:80]!r} can be no id of a job")
    return quote(job_id, safe="")


def _checked_url(url: str) -> str:
    """Return `url` without a slash at its end; Misused if it is no address of a server."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        is_usable = False
        parts = urlsplit("")
    if not is_usable:
        raise Misused("--url (SLALOM_URL) must be an address such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Misused("--url (SLALOM_URL) must have no user, password, ? or #; keys: --api-key")
    return url.rstrip("/")


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise Misused("--api-key (SLALOM_API_KEY) has characters that no key has")
    return {"Authorization": f"Bearer {api_key}"}


def _given(query: Mapping[str, Any]) -> dict[str, str]:
    """Return what was given, as text."""
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else str(value)
        for name, value in query.items()
        if value is not None and value is not False
    }


def _retry_after_s(answer: httpx2.Response) -> float | None:
    """Return when to ask again, None if that would be of no use."""
    is_for_now = answer.status_code in {429, 503}
    if not is_for_now or answer.headers.get("x-should-retry") == "false":
        return None
    return _seconds(answer.headers.get("retry-after"))


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds in a Retry-After, which may be a number or a date."""
    if retry_after is None:
        return None
    try:
        return min(max(0.0, float(retry_after)), 86_400.0)
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(retry_after)
        return max(0.0, (at - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _reason(error: Exception) -> str:
    """Return what happened, without the errno that asyncio puts in front."""
    text = str(error) or type(error).__name__
    if "refused" in text or "All connection attempts failed" in text:
        return "connection refused"
    return text
