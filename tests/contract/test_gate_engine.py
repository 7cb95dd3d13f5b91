"""The step gate in vLLM's engine, with the adder: it changes who waits, and no token."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from config.settings import Settings
from gpu_worker.engine import Engine, Response
from gpu_worker.start import start_engine
from models.sums import held_out_sums
from scheduler.jobs import Request

pytestmark = pytest.mark.vllm

HIGH, LOW = 0, 100
FLAGS = "--max-num-seqs 8 --block-size 32 --num-gpu-blocks-override 20"
"""Little enough that high requests take seats and blocks of low ones."""
NUM_HIGH, NUM_LOW = 30, 70


Tokens = list[list[int] | None]
"""Of each request; None if it was aborted."""


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[asyncio.Runner, Engine]]:
    with asyncio.Runner() as runner:
        settings = Settings(engine="vllm", gate="strict", low_floor=0, vllm_args=FLAGS)
        engine = runner.run(start_engine(settings))
        yield runner, engine
        runner.run(engine.stop())


async def run(engine: Engine, name: str, priorities: list[int], aborted: set[int]) -> Tokens:
    """Send the same requests as ever: low ones, then high ones once low ones have all seats."""
    rng = random.Random(7)
    bodies = [
        {
            "model": "adder",
            "prompt": "1+1=" * rng.randrange(8) + f"{a}+{b}=",
            "max_tokens": rng.randrange(4, 60),
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        for a, b in held_out_sums(NUM_LOW + NUM_HIGH)
    ]
    num_ended = 0

    async def one(n: int) -> list[int]:
        nonlocal num_ended
        request = Request(endpoint="/v1/completions", body=bodies[n])
        stream = engine.run(request, job_id=f"{name}-{n}", priority=priorities[n])
        [*_, last] = [event async for event in stream]
        assert isinstance(last, Response)
        num_ended += 1
        tokens: list[int] = last.body["choices"][0]["token_ids"]
        assert len(tokens) == bodies[n]["max_tokens"]
        return tokens

    tasks = [asyncio.create_task(one(n)) for n in range(NUM_LOW)]
    while num_ended < 4:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(one(NUM_LOW + n)) for n in range(NUM_HIGH)]
    while num_ended < 12:
        await asyncio.sleep(0)
    for n in aborted:
        tasks[n].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [r if isinstance(r, list) else None for r in results]


def test_every_token_is_the_one_that_comes_without_high_requests(
    engine: tuple[asyncio.Runner, Engine],
) -> None:
    runner, gated = engine
    assert gated.is_gated
    priorities = [LOW] * NUM_LOW + [HIGH] * NUM_HIGH
    aborted = {*range(40, 60, 3), NUM_LOW + 20, NUM_LOW + 29}
    without = runner.run(run(gated, "without", [LOW] * len(priorities), set()))

    mixed = runner.run(run(gated, "mixed", priorities, aborted))

    assert {n for n, tokens in enumerate(mixed) if tokens is None} <= aborted
    assert [tokens or without[n] for n, tokens in enumerate(mixed)] == without
