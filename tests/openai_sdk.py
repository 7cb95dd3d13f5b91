"""The openai SDK against a server: its two clients behind one call, and what else tests ask."""

import asyncio
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any

from openai import AsyncOpenAI, OpenAI
from redis import Redis

from tests.conftest import until

MODEL = "adder"
HELLO = [{"role": "user", "content": "1+1"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO}
PATIENCE_S = 30

Client = Any
"""An OpenAI or an AsyncOpenAI: their methods have the same names."""


class Sdk:
    """One of the SDK's clients; what a call returns is awaited where that is needed."""

    def __init__(self, client: OpenAI | AsyncOpenAI, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def __call__(self, ask: Callable[[Client], Any]) -> Any:
        """Return what `ask` makes the client return."""
        found = ask(self.client)
        return self._runner.run(_awaited(found)) if isawaitable(found) else found

    def stream(self, ask: Callable[[Client], Any]) -> list[Any]:
        """Return all events of the stream that `ask` opens."""
        found = ask(self.client)
        return self._runner.run(_collected(found)) if isawaitable(found) else list(found)

    def close(self) -> None:
        if isinstance(self.client, AsyncOpenAI):
            self._runner.run(self.client.close())
        else:
            self.client.close()


@contextmanager
def sdk(kind: str, port: int, **options: Any) -> Iterator[Sdk]:
    """Yield the `sync` or the `async` client of the server at `port`."""
    options = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "any", **options}
    with asyncio.Runner() as runner:
        client = OpenAI(**options) if kind == "sync" else AsyncOpenAI(**options)
        made = Sdk(client, runner)
        try:
            yield made
        finally:
            made.close()


async def _awaited(found: Any) -> Any:
    return await found


async def _collected(found: Any) -> list[Any]:
    return [event async for event in await found]


def post(port: int, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    """Return status, headers and JSON of the answer to a body: text, or what goes as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    sent = body if isinstance(body, bytes) else json.dumps(body)
    try:
        connection.request("POST", path, sent, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.headers, json.load(response)
    finally:
        connection.close()


def job(redis: Redis, job_id: str) -> dict[str, str]:
    found = redis.hgetall(f"rq:job:{job_id}")
    return {k.decode(): v.decode("latin-1") for k, v in found.items()}


def only_job(redis: Redis) -> str:
    """Return the id of the one low job, once it is there."""
    until(lambda: redis.llen("rq:queue:low"))
    [job_id] = redis.lrange("rq:queue:low", 0, -1)
    return job_id.decode()


def send(port: int, body: Any) -> socket.socket:
    """Send a chat request, and leave its answer to be read."""
    text = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: slalom\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(text), text)
    )
    return client
