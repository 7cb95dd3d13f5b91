"""GPUWorker: RQ's worker with many jobs in flight on one engine.

    rq worker -c config.rq -w gpu_worker.GPUWorker high low

RQ's worker forks for one job at a time; this one claims as many as the engine has use for, high queues first, and
runs them together on one event loop. Everything RQ shows of a worker (record, heartbeat, counts, commands) is kept.
Four tasks run side by side: claim, finish, heartbeat, and one per job in flight.

Signals: TERM, INT or HUP once drains (claim nothing, finish what is in flight for up to `drain_s`, hand back the rest
uncharged, exit 0); a second one hands back at once. SIGKILL: the leases expire and `scheduler.rescue` takes over.
A dead engine ends the worker with status 1; its leases expire likewise.
"""

import asyncio
import logging
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis import Redis
from rq import Worker, worker_registration
from rq.command import parse_payload
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.serializers import DefaultSerializer, JSONSerializer, resolve_serializer
from rq.worker import DequeueStrategy, WorkerStatus

from config import logs
from config.connections import commands_like
from config.settings import Settings, SettingsError, load
from gpu_worker import inference
from gpu_worker.engine import Engine, EngineDead, EngineStartError
from gpu_worker.finish import FIRST_PAUSE_S, LONGEST_PAUSE_S, UNAVAILABLE, Finisher
from gpu_worker.sim_engine import SimEngine
from scheduler import keys, models
from scheduler.claim import Claim, Claims

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""Longest that a job enqueued by plain RQ, which announces nothing, is overlooked by an idle worker."""
BUFFER = 1.5
"""Jobs held per seat of the engine: some must wait inside it, or seats stand empty between two jobs."""


class GPUWorker(Worker):
    """RQ's worker, concurrent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = _json_serializer(kwargs.get("serializer"))
        super().__init__(*args, **kwargs)
        for queue in self.queues:
            queue.serializer = self.serializer
        self._inflight: dict[str, tuple[Claim, asyncio.Task[None]]] = {}
        self._stopping: set[str] = set()
        self._draining = asyncio.Event()
        self._forced = asyncio.Event()
        self._wake = asyncio.Event()
        self._engine_died = False
        self._num_claimed = 0

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Work until told to stop, as RQ's `work`; SystemExit with one line on what cannot be started."""
        if dequeue_strategy != DequeueStrategy.DEFAULT:
            sys.exit(f"--dequeue-strategy {dequeue_strategy} contradicts tiers: queues are served in rank order")
        try:
            settings = load()
            settings.tiers()
        except SettingsError as error:
            sys.exit(f"invalid configuration:\n{error}")
        logs.configure(logging_level or settings.log_level)
        logging.getLogger("rq.worker").handlers.clear()  # RQ's command line adds one of its own
        if with_scheduler:
            self._start_scheduler(burst, logging_level, date_format, log_format)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, _leave)
        with asyncio.Runner() as runner:
            runner.run(self._work(settings, burst, max_jobs, max_idle_time))
        if self._engine_died:
            sys.exit("the engine died; this worker ends and its jobs go to the next one")
        return self._num_claimed > 0

    async def _work(self, settings: Settings, burst: bool, max_jobs: int | None, max_idle: int | None) -> None:
        try:
            engine = await _start_engine(settings)
        except EngineStartError as error:
            sys.exit(str(error))
        try:
            await self._serve(settings, engine, burst, max_jobs, max_idle)
        finally:
            await engine.stop()

    async def _serve(
        self, settings: Settings, engine: Engine, burst: bool, max_jobs: int | None, max_idle: int | None
    ) -> None:
        """Register, run the tasks, drain, say goodbye."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._engine = engine
        self._tiers = settings.tiers()
        self._commands = commands_like(self.connection)
        self._claims = Claims(
            self._commands, self.name, self.queue_names(), settings.lease_s, serializer=self.serializer
        )
        self._max_inflight = settings.max_inflight or int(engine.seats * BUFFER)
        self._finisher = Finisher(self, self._commands)
        self._redis_thread = ThreadPoolExecutor(2, thread_name_prefix="redis")
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal, signum)
        self._register()
        tasks = [
            loop.create_task(self._finisher.run()),
            loop.create_task(self._heartbeats(settings.lease_s / 3)),
        ]
        try:
            await self._claim_jobs(burst, max_jobs, max_idle)
            await self._drain(None if burst or max_jobs else settings.drain_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.teardown()

    def _register(self) -> None:
        """Appear in RQ: only now, since only now can jobs be run."""
        self.register_birth()
        self.subscribe()
        self.set_state(WorkerStatus.IDLE)
        self._renew_record(self.connection)
        model = models.ModelView(self._engine.model, self._engine.max_model_len, self._engine.kind, time.time())
        models.announce(self.connection, model)
        logger.info(
            "worker ready",
            extra={
                "event": "worker.ready",
                "worker": self.name,
                "queues": ",".join(self.queue_names()),
                "engine": self._engine.kind,
                "model": self._engine.model,
                "seats": self._engine.seats,
                "max_inflight": self._max_inflight,
            },
        )

    @property
    def num_inflight(self) -> int:
        """Jobs claimed and not ended."""
        return len(self._inflight)

    # Claiming

    async def _claim_jobs(self, burst: bool, max_jobs: int | None, max_idle: int | None) -> None:
        """Keep the engine full until draining, or until burst, max_jobs or max_idle says stop."""
        pause_s, idle_since = FIRST_PAUSE_S, time.monotonic()
        while not self._draining.is_set():
            self._wake.clear()
            room = self._room(max_jobs)
            if max_jobs is not None and self._num_claimed >= max_jobs:
                return
            try:
                claims = await self._in_thread(self._claims.take, room) if room else []
                pause_s = FIRST_PAUSE_S
            except UNAVAILABLE as error:
                logger.warning("claiming waits for Redis", extra={"event": "claim.waiting", "error": error})
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            for claim in claims:
                self._launch(claim)
            if claims or self._inflight:
                idle_since = time.monotonic()
            elif burst or (max_idle is not None and time.monotonic() - idle_since >= max_idle):
                return
            if len(claims) < room or not room:
                await self._until_woken()

    def _room(self, max_jobs: int | None) -> int:
        room = self._max_inflight - len(self._inflight)
        return room if max_jobs is None else min(room, max_jobs - self._num_claimed)

    async def _until_woken(self) -> None:
        """Wait for a job to be announced, a seat to come free, the drain, or POLL_S."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            return

    def _launch(self, claim: Claim) -> None:
        self._num_claimed += 1
        task = self._loop.create_task(self._run(claim))
        self._inflight[claim.execution_id] = (claim, task)

    async def _run(self, claim: Claim) -> None:
        """Run one job and pass its ending on; a task that is cancelled without a stop writes nothing."""
        try:
            ending = await inference.run(claim.job, self._engine, self._tiers)
        except asyncio.CancelledError:
            if claim.job.id not in self._stopping:
                raise
            ending = inference.Stopped()
        except EngineDead as error:
            self._on_engine_death(error)
            return
        finally:
            self._stopping.discard(claim.job.id)
            del self._inflight[claim.execution_id]
            self._wake.set()
        self._finisher.put(claim, ending)

    def _on_engine_death(self, error: EngineDead) -> None:
        if not self._engine_died:
            logger.error("engine died", extra={"event": "engine.died", "error": error})
        self._engine_died = True
        self._draining.set()
        self._forced.set()

    # Heartbeats

    async def _heartbeats(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._heartbeat()
            except UNAVAILABLE as error:
                logger.warning("heartbeat waits for Redis", extra={"event": "heartbeat.failed", "error": error})

    async def _heartbeat(self) -> None:
        """Renew the leases and the record; drop what was lost, abort what was cancelled."""
        claims = [claim for claim, _ in self._inflight.values()]
        verdicts = await self._in_thread(self._claims.renew, claims)
        for claim, verdict in zip(claims, verdicts, strict=True):
            if verdict == "stop":
                self._stop(claim.job.id)
            elif verdict == "lost":
                logger.warning("lease lost", extra={"event": "lease.lost", "job_id": claim.job.id})
                self._cancel(claim)
        await self._in_thread(self._renew_record, self._commands)

    def _renew_record(self, connection: Redis) -> None:
        """Keep the worker's record for two leases; write it again should it have expired."""
        known = connection.exists(self.key)
        with connection.pipeline() as pipeline:
            if not known:
                pipeline.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipeline)
            self.show_state(pipeline)
            self.heartbeat(int(2 * self._claims.lease_s), pipeline=pipeline)
            pipeline.execute()

    def show_state(self, connection: Redis) -> None:
        """Record whether anything is in flight; RQ's `current_job` is the latest that was claimed."""
        if self._inflight:
            self.set_state(WorkerStatus.BUSY, pipeline=connection)
        else:
            self.set_state(WorkerStatus.IDLE, pipeline=connection)
            self.set_current_job_id(None, pipeline=connection)

    # Stopping one job, and stopping altogether

    def subscribe(self) -> None:
        """Listen for RQ's commands and for announcements of jobs, on one connection."""
        self.pubsub = self.connection.pubsub()
        wakes = {keys.wake(name): self._on_wake for name in self.queue_names()}
        self.pubsub.subscribe(**{self.pubsub_channel_name: self.handle_payload}, **wakes)
        self.pubsub_thread = self.pubsub.run_in_thread(
            sleep_time=60, daemon=True, exception_handler=self._pubsub_exception_handler
        )

    def _on_wake(self, _message: object) -> None:
        self._loop.call_soon_threadsafe(self._wake.set)

    def handle_payload(self, message: Any) -> None:
        """Carry out a command of RQ's; `stop-job` stops one of many."""
        payload = parse_payload(message)
        if payload.get("command") == "stop-job":
            self._loop.call_soon_threadsafe(self._stop, payload.get("job_id"))
        else:
            super().handle_payload(message)

    def _stop(self, job_id: str) -> None:
        for claim, _ in list(self._inflight.values()):
            if claim.job.id == job_id:
                self._stopping.add(job_id)
                self._cancel(claim)

    def _cancel(self, claim: Claim) -> None:
        _, task = self._inflight.get(claim.execution_id, (None, None))
        if task is not None:
            task.cancel()

    def _on_signal(self, signum: signal.Signals) -> None:
        if self._draining.is_set():
            self._forced.set()
        logger.info(
            "worker draining",
            extra={"event": "worker.draining", "signal": signal.Signals(signum).name, "inflight": len(self._inflight)},
        )
        self._draining.set()
        self._wake.set()

    async def _drain(self, drain_s: float | None) -> None:
        """Finish what is in flight for up to `drain_s` (None: however long), hand back the rest."""
        finishing = self._loop.create_task(self._until_empty())
        forced = self._loop.create_task(self._forced.wait())
        await asyncio.wait({finishing, forced}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        forced.cancel()
        rest = [claim for claim, _ in self._inflight.values()]
        for claim in rest:
            self._cancel(claim)
        await asyncio.gather(*(task for _, task in list(self._inflight.values())), return_exceptions=True)
        if not self._engine_died:
            released = await self._in_thread(self._claims.release, rest)
            if released:
                logger.info("jobs handed back", extra={"event": "worker.released", "jobs": released})
        await self._finisher.settle()

    async def _until_empty(self) -> None:
        while self._inflight:
            await asyncio.wait([task for _, task in self._inflight.values()])

    async def _in_thread(self, call: Any, *args: Any) -> Any:
        return await self._loop.run_in_executor(self._redis_thread, call, *args)


def _json_serializer(given: Any) -> Any:
    """Return the serializer to use: pickle, RQ's default, is refused, since a pickle in Redis runs code."""
    return JSONSerializer if resolve_serializer(given) is DefaultSerializer else given


async def _start_engine(settings: Settings) -> Engine:
    """Return the engine that the settings name."""
    logger.info("engine starting", extra={"event": "engine.starting", "engine": settings.engine, "model": settings.model})
    if settings.engine == "sim":
        return await SimEngine.start(settings)
    try:
        from gpu_worker.vllm_engine import VLLMEngine

        return await VLLMEngine.start(settings)
    except ModuleNotFoundError as error:
        raise EngineStartError(
            f"vLLM is not installed ({error}): run `make setup`, or set SLALOM_ENGINE=sim for the simulated engine"
        ) from error


def _leave(signum: int, _frame: object) -> None:
    """End while nothing is in flight yet."""
    sys.exit(0)
