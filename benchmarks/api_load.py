"""The clients of `benchmarks.api`: one light process that sends requests and notes the answers.

    python -m benchmarks.api_load submit PORT --requests 2000 --clients 8
    python -m benchmarks.api_load wait   PORT --requests 2000 --wait-s 300

`submit` keeps its connections busy, each with its next request as soon as it has an answer; `wait`
opens a connection for every request and leaves it waiting. One JSON object on standard output tells
when (s, the clock that all processes of the machine share) each answer was there as a whole.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict, cast

import uvloop

JOB = {"prompt": "128+256=", "max_tokens": 8, "metadata": {"customer": "acme"}}
END_OF_HEAD = b"\r\n\r\n"
STAGGER_S = 0.006
"""Between one waiting client and the next, so that the server's backlog does not overflow."""


class Answer(TypedDict):
    """An answer: its request was sent and it was there as a whole at these instants."""

    status: int
    id: str | None
    sent_at: float
    done_at: float


@dataclass
class Load:
    """Requests yet to send, and the answers to those that were sent."""

    requests: Iterator[bytes]
    answers: list[Answer] = field(default_factory=list)
    lost: int = 0
    """Connections that ended before their answer was whole."""


class Client(asyncio.Protocol):
    """One connection: sends a request, notes the answer, sends the next."""

    def __init__(self, load: Load, ended: asyncio.Future[None]) -> None:
        self._load = load
        self._ended = ended
        self._received = b""
        self._sent_at = 0.0
        self._is_asking = False
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is a duck
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Note an answer that is whole."""
        self._received += data
        head, found, body = self._received.partition(END_OF_HEAD)
        if not found or len(body) < _content_length(head):
            return
        done_at = time.monotonic()
        status = int(head.split(b" ", 2)[1])
        job_id = json.loads(body).get("id")
        self._load.answers.append(
            Answer(status=status, id=job_id, sent_at=self._sent_at, done_at=done_at)
        )
        self._received, self._is_asking = b"", False
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that gets no answer any more."""
        self._load.lost += self._is_asking
        if not self._ended.done():
            self._ended.set_result(None)

    def _ask(self) -> None:
        request = next(self._load.requests, None)
        if request is None:
            self._transport.close()
            return
        self._is_asking, self._sent_at = True, time.monotonic()
        self._transport.write(request)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without Content-Length")


def request(tier: str, prefer: str | None, prompt_bytes: int) -> bytes:
    """Return the bytes of a submission."""
    prompt = JOB["prompt"] if not prompt_bytes else "1" * prompt_bytes
    body = json.dumps({**JOB, "prompt": prompt, "tier": tier}).encode()
    lines = [
        "POST /v1/jobs HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    if prefer:
        lines.append(f"Prefer: {prefer}")
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


async def send(port: int, load: Load, clients: int, stagger_s: float) -> None:
    """Send all requests over so many connections, and return once all are answered or lost."""
    loop = asyncio.get_running_loop()
    ended = [loop.create_future() for _ in range(clients)]
    for future in ended:
        await loop.create_connection(partial(Client, load, future), "127.0.0.1", port)
        await asyncio.sleep(stagger_s)
    await asyncio.gather(*ended)


async def run(args: argparse.Namespace) -> Load:
    """Return what came of the load; TimeoutError if it takes too long."""
    waits = args.mode == "wait"
    prefer = f"wait={args.wait_s}" if waits else None
    text = request(args.tier, prefer, args.prompt_bytes)
    load = Load(iter([text] * args.requests))
    clients = args.requests if waits else args.clients
    async with asyncio.timeout(args.limit_s):
        await send(args.port, load, clients, STAGGER_S if waits else 0)
    return load


def main() -> None:
    """Send and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["submit", "wait"])
    parser.add_argument("port", type=int)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--wait-s", type=int, default=300)
    parser.add_argument("--limit-s", type=float, default=300.0)
    parser.add_argument("--tier", default="batch")
    parser.add_argument("--prompt-bytes", type=int, default=0, help="0: a short sum")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(run(args))
    json.dump({"answers": load.answers, "lost": load.lost}, sys.stdout)


if __name__ == "__main__":
    main()
