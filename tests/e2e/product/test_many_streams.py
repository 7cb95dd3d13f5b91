"""Streams from outside: 500 at once through the whole product, each caller its own answer.

This module comes before `test_whole_life`, whose last test ends the product that they share.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.sums import held_out_sums
from tests.e2e.conftest import Product

pytestmark = pytest.mark.vllm

NUM_STREAMS = 500
GIVE_UP_S = 300


@dataclass
class Seen:
    """What one caller saw of his job."""

    statuses: list[str] = field(default_factory=list)
    text: str = ""
    num_chunks: int = 0
    usage: dict[str, Any] | None = None

    def take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "status":
            self.statuses.append(data["status"])
            return
        self.num_chunks += 1
        self.text += "".join(choice["text"] for choice in data["choices"])
        self.usage = data.get("usage") or self.usage


async def follow(product: Product, job_id: str) -> Seen:
    """Return what the events of a job say, till their end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", product.port)
    writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.0\r\n\r\n".encode())
    seen, kind = Seen(), ""
    assert b" 200 " in await reader.readline()
    while line := await reader.readline():
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            seen.take(kind, json.loads(value))
    writer.close()
    return seen


async def submit_and_follow(product: Product, prompt: str, tier: str) -> Seen:
    job_id = await asyncio.to_thread(product.submit, prompt, tier, stream=True)
    return await follow(product, job_id)


def test_500_streams_at_once_give_each_caller_his_own_answer(product: Product) -> None:
    sums = held_out_sums(NUM_STREAMS)

    async def all_at_once() -> list[Seen]:
        streams = (
            submit_and_follow(product, f"{a}+{b}=", ("premium", "standard")[n % 2])
            for n, (a, b) in enumerate(sums)
        )
        return await asyncio.wait_for(asyncio.gather(*streams), GIVE_UP_S)

    seen = asyncio.run(all_at_once())

    assert [each.text for each in seen] == [str(a + b) for a, b in sums]
    assert {tuple(each.statuses) for each in seen} == {("queued", "running", "succeeded")}
    for each in seen:
        assert each.usage is not None
        assert 2 <= each.num_chunks <= each.usage["completion_tokens"] + 1


def test_a_stream_is_followed_again_from_redis_after_its_end(product: Product) -> None:
    [job] = product.ended([product.submit("128+256=", "premium", stream=True)])

    first, second = (asyncio.run(follow(product, job["id"])) for _ in range(2))

    assert first == second
    assert first.text == job["output"]["text"] == "384"
