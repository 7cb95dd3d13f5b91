"""What a job in flight leaves behind when it is ended from outside, or the worker must stop."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from config.settings import Settings
from gpu_worker import inflight
from gpu_worker.callables import Callables
from gpu_worker.endings import Ending, Failed, Finished, Stopped
from gpu_worker.hooks import Hooks
from gpu_worker.inference import Runner
from gpu_worker.inflight import Callbacks, Inflight
from gpu_worker.sim_engine import SimEngine
from gpu_worker.threads import Threads
from scheduler.claim import Claim
from scheduler.jobs import FUNCTION, Failure, Request
from scheduler.so_far import SoFar

BEFORE = SoFar((0,) * 50, "[simulated: 50 tokens]")
EXPIRED = Failed(Failure(code="expired", message="late"), "late", TimeoutError())


class Deaf(SimEngine):
    """An engine that is told to abort, and does not."""

    async def abort(self, job_id: str) -> bool:
        return True


class Broken(SimEngine):
    """An engine that cannot even be told."""

    async def abort(self, job_id: str) -> bool:
        raise ConnectionError


class Quick(SimEngine):
    """An engine whose requests end while they are aborted."""

    async def abort(self, job_id: str) -> bool:
        for sequence in self._inside:
            sequence.max_tokens = 1
        return True


class Scene:
    """A worker's jobs in flight, on an engine."""

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self.ended: list[tuple[Claim, Ending]] = []
        threads = Threads(1)
        self.inflight = Inflight(
            Runner(engine, Settings().tiers(), Callables(threads)),
            Hooks(threads, []),
            Callbacks(lambda claim, ending: self.ended.append((claim, ending)), lambda: None),
            show_descriptions=False,
        )

    async def launch(self, so_far: SoFar | None = None, function: str = FUNCTION) -> Claim:
        """Return the claim of a job that has come some way."""
        body = {"prompt": "1+1=", "max_tokens": 4000}
        request = Request(endpoint="/v1/completions", body=body)
        argument = request if function == FUNCTION else "/nowhere"
        job = Job.create(
            function, args=(argument,), connection=Redis(), serializer=JSONSerializer, meta={}
        )
        claim = Claim(job, f"execution of {job.id}", "low", datetime.now(UTC), so_far=so_far)
        num_tokens = self.engine.num_tokens
        self.inflight.launch(claim)
        while function == FUNCTION and self.engine.num_tokens < num_tokens + 3:
            await asyncio.sleep(0.001)
        return claim


def run(engine: type[SimEngine], play: Any) -> None:
    async def scene() -> None:
        running = engine(model="m")
        try:
            await play(Scene(running))
        finally:
            await running.stop()

    coroutine: Coroutine[Any, Any, None] = asyncio.wait_for(scene(), timeout=60)
    asyncio.run(coroutine)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "ABORT_S", 0.2)


@pytest.mark.parametrize("ending", [Stopped(), EXPIRED])
def test_an_ending_from_outside_comes_with_what_there_is(ending: Stopped | Failed) -> None:
    async def play(scene: Scene) -> None:
        claim = await scene.launch()

        scene.inflight.end(claim, ending)
        scene.inflight.end(claim, Stopped())
        await scene.inflight.until_empty()

        [(ended, came)] = scene.ended
        assert ended is claim
        assert type(came) is type(ending)
        assert came.partial is not None
        assert came.partial["choices"][0]["finish_reason"] == "abort"

    run(SimEngine, play)


@pytest.mark.parametrize("engine", [Deaf, Broken])
def test_an_engine_that_does_not_answer_keeps_no_ending_from_coming(
    engine: type[SimEngine],
) -> None:
    async def play(scene: Scene) -> None:
        claim = await scene.launch()

        scene.inflight.end(claim, Stopped())
        await scene.inflight.until_empty()

        assert scene.ended == [(claim, Stopped(partial=None))]
        assert scene.engine.load().running == 0

    run(engine, play)


@pytest.mark.parametrize("engine", [Deaf, Broken])
def test_what_such_an_engine_was_given_goes_back(engine: type[SimEngine]) -> None:
    async def play(scene: Scene) -> None:
        await scene.launch()
        await scene.launch(BEFORE)

        claims = await scene.inflight.abort_all()

        assert [claim.so_far for claim in claims] == [None, BEFORE]
        assert not scene.ended
        assert not scene.inflight

    run(engine, play)


def test_what_each_job_has_goes_back_with_it() -> None:
    async def play(scene: Scene) -> None:
        await scene.launch()
        await scene.launch(BEFORE)
        await scene.launch(function="tests.callables.wait_for")

        first, second, callable_ = await scene.inflight.abort_all()

        assert first.so_far is not None
        assert second.so_far is not None
        assert len(first.so_far.token_ids) >= 3
        assert len(second.so_far.token_ids) > 50
        assert callable_.so_far is None
        assert not scene.ended

    run(SimEngine, play)


def test_a_job_that_ends_while_it_is_aborted_is_not_handed_back() -> None:
    async def play(scene: Scene) -> None:
        claim = await scene.launch()

        assert await scene.inflight.abort_all() == []

        [(ended, ending)] = scene.ended
        assert ended is claim
        assert isinstance(ending, Finished)

    run(Quick, play)
