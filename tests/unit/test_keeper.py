"""The keeper replaces an engine that died or hangs, and gives up one that never comes back."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gpu_worker import keeper
from gpu_worker.engine import Aborted, EngineDead, EngineStartError, FirstToken, Response
from gpu_worker.keeper import Keeper
from gpu_worker.sim_engine import SimEngine
from scheduler.jobs import Request


def request(**more: object) -> Request:
    return Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 2, **more})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(keeper, "LOOK_EVERY_S", 0.01)


class Recorder:
    """What the keeper tells its worker."""

    def __init__(self) -> None:
        self.deaths: list[frozenset[str]] = []
        self.returned = asyncio.Event()

    async def on_death(self, inside: frozenset[str]) -> None:
        self.deaths.append(inside)

    def on_return(self) -> None:
        self.returned.set()


async def start() -> SimEngine:
    return SimEngine(model="m")


async def cannot_start() -> SimEngine:
    raise EngineStartError("no memory left")


async def answer(engine: Keeper, job_id: str, **more: object) -> Any:
    events = engine.run(request(**more), job_id=job_id, priority=0)
    [body] = [event.body async for event in events if isinstance(event, Response)]
    return body["id"]


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, timeout=60))


def test_what_was_inside_dies_and_what_comes_meanwhile_gets_the_next_engine() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), start, step_timeout_s=60)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))
        victims = [asyncio.create_task(answer(engine, "poison", simulate="crash"))]
        victims += [asyncio.create_task(answer(engine, f"j{i}")) for i in range(3)]

        outcomes = await asyncio.gather(*victims, return_exceptions=True)
        later = await answer(engine, "later")

        assert all(isinstance(outcome, EngineDead) for outcome in outcomes)
        assert later == "cmpl-later"
        assert told.deaths == [{"poison", "j0", "j1", "j2"}]
        keeping.cancel()
        await engine.stop()

    run(scene())


def test_a_job_that_runs_twice_is_inside_until_both_runs_have_ended() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), start, step_timeout_s=60)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))
        lost, held = (asyncio.create_task(answer(engine, "j", max_tokens=4000)) for _ in range(2))
        while engine.load().running < 2:
            await asyncio.sleep(0)

        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        poison = asyncio.create_task(answer(engine, "poison", simulate="crash"))
        await asyncio.gather(held, poison, return_exceptions=True)
        await told.returned.wait()

        assert told.deaths == [{"j", "poison"}]
        keeping.cancel()
        await engine.stop()

    run(scene())


def test_an_engine_with_work_and_no_step_is_replaced_and_names_who_was_inside() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), start, step_timeout_s=0.1)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))
        stuck = asyncio.create_task(answer(engine, "stuck", simulate="hang"))

        await told.returned.wait()

        assert told.deaths == [{"stuck"}]
        assert await answer(engine, "later") == "cmpl-later"
        for task in (stuck, keeping):
            task.cancel()
        await engine.stop()

    run(scene())


def test_only_a_request_inside_the_present_engine_is_aborted() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), start, step_timeout_s=60)
        stream = engine.run(request(max_tokens=4000), job_id="j", priority=0)
        assert isinstance(await anext(stream), FirstToken)

        assert await engine.abort("j")
        assert not await engine.abort("other")
        assert isinstance(await anext(stream), Aborted)

        with pytest.raises(EngineDead):
            await answer(engine, "poison", simulate="crash")
        waiting = asyncio.create_task(answer(engine, "waits"))
        await asyncio.sleep(0)
        assert not await engine.abort("waits")
        waiting.cancel()
        await engine.stop()

    run(scene())


def test_an_idle_engine_is_not_taken_for_a_hung_one() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), cannot_start, step_timeout_s=0.05)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))

        await asyncio.sleep(0.2)

        assert not told.deaths
        assert await answer(engine, "j") == "cmpl-j"
        keeping.cancel()
        await engine.stop()

    run(scene())


def test_an_engine_that_does_not_start_again_is_given_up_with_the_reason() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), cannot_start, step_timeout_s=60)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))
        with pytest.raises(EngineDead):
            await answer(engine, "poison", simulate="crash")

        with pytest.raises(EngineStartError, match="5 times in a row: no memory left"):
            await keeping

    run(scene())


def test_an_engine_that_answers_nothing_between_its_deaths_is_given_up() -> None:
    async def scene() -> None:
        engine = Keeper(await start(), start, step_timeout_s=60)
        told = Recorder()
        keeping = asyncio.create_task(engine.keep(told.on_death, told.on_return))

        for number in range(keeper.MOST_FAILURES):
            with pytest.raises(EngineDead):
                await answer(engine, f"j{number}", simulate="crash")

        with pytest.raises(EngineStartError, match="dies as soon as it has started"):
            await keeping

    run(scene())


@pytest.mark.parametrize(
    ("failures", "draw", "pause_s"), [(1, 0.5, 1.0), (2, 0.5, 2.0), (4, 0.25, 4.0), (9, 1.0, 60.0)]
)
def test_pauses_double_up_to_a_minute_with_full_jitter(
    monkeypatch: pytest.MonkeyPatch, failures: int, draw: float, pause_s: float
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE_S", 2.0)
    assert keeper._pause_s(failures, draw) == pause_s
