"""GPUWorker: RQ's worker with many jobs in flight on one engine.

    rq worker -c config.rq -w gpu_worker.GPUWorker high low

RQ's worker forks for one job at a time; this one claims as many as the engine has use for, high
queues first, and runs them together on one event loop. What RQ shows of a worker (record,
heartbeat, counts, commands) is kept. Side by side run the claiming, the finishing, the heartbeat,
the keeping of the engine, and one task per job in flight.

Signals: TERM, INT or HUP once drains (claim nothing, finish what is in flight for up to `drain_s`,
hand back the rest uncharged, with what it has so far, exit 0); a second one hands back at once,
unless it is an INT within a second of the first. SIGKILL: the leases expire and `scheduler.rescue`
takes over. A dead engine is replaced, and what was inside it goes back to its queues; one that
cannot be replaced ends the worker with status 1.
"""

import asyncio
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from redis.client import Pipeline
from rq import Worker, worker_registration
from rq.command import parse_payload
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.utils import now, utcformat
from rq.worker import DequeueStrategy, WorkerStatus

from config.connections import UNAVAILABLE, commands_like, listener_like
from config.settings import Settings, SettingsError, load
from gpu_worker import options
from gpu_worker.admission import Admission
from gpu_worker.callables import Callables
from gpu_worker.claiming import Claiming, Until
from gpu_worker.endings import Ending
from gpu_worker.engine import Engine, EngineStartError
from gpu_worker.finish import Finisher
from gpu_worker.hooks import Hooks
from gpu_worker.inference import Runner
from gpu_worker.inflight import Callbacks, Inflight
from gpu_worker.keeper import Keeper
from gpu_worker.pace import Pace
from gpu_worker.scheduling import scheduling
from gpu_worker.start import start_engine
from gpu_worker.suspension import Suspension
from gpu_worker.threads import Threads
from gpu_worker.tokens import Tokens
from gpu_worker.upkeep import Upkeep
from scheduler import models, rates, scores
from scheduler.cancel import request_stop
from scheduler.claim import Claim, Claims
from scheduler.rescue import report_death
from scheduler.starting import announced

logger = logging.getLogger(__name__)

MAX_THREADS = 64
"""Plain functions that run at a time; coroutine functions and inference need no thread."""
MAX_HOOKS = 256
"""Callbacks and exception handlers that run at a time."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class GPUWorker(Worker):
    """RQ's worker, concurrent."""

    pubsub_thread: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = options.serializer(kwargs.get("serializer"))
        super().__init__(*args, **kwargs)
        for queue in self.queues:
            queue.serializer = self.serializer
        self._failure = ""
        self._forced = asyncio.Event()
        self._is_serving = False

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
        """Work until told to stop, as RQ's `work`; SystemExit with one line where it cannot."""
        options.refuse_strategy(dequeue_strategy)
        try:
            settings = load()
            settings.tiers()
        except SettingsError as error:
            sys.exit(f"invalid configuration:\n{error}")
        options.configure_logs(logging_level, settings.log_level, log_format, date_format)
        until = Until(burst, max_jobs, max_idle_time)
        with (
            scheduling(self, with_scheduler, burst),
            asyncio.Runner(loop_factory=_event_loop()) as runner,
        ):
            worked = runner.run(self._work(settings, until))
        if self._failure or self._forced.is_set():
            sys.exit(self._failure or 0)
        return worked

    async def _work(self, settings: Settings, until: Until) -> bool:
        """Return whether any job was claimed."""
        self._commands = commands_like(self.connection)
        options.refuse_taken_name(self._commands, self.key, self.name)
        self.subscribe()
        first = await self._first_engine(settings)
        if first is None:
            return False
        start = partial(start_engine, settings)
        engine = Keeper(first, start, step_timeout_s=settings.step_timeout_s)
        try:
            self._prepare(settings, engine)
            await self._serve(settings, until)
            return self._claiming.num_claimed > 0
        finally:
            extra = {"event": "engine.stopped", "num_tokens": engine.num_tokens}
            logger.info("engine stopped", extra=extra)
            await engine.stop()

    async def _first_engine(self, settings: Settings) -> Engine | None:
        """Return the engine; None if a signal came before it was ready."""
        with announced(self._commands, self.name, self.queue_names()):
            starting = asyncio.ensure_future(start_engine(settings))
            for signum in SIGNALS:
                asyncio.get_running_loop().add_signal_handler(signum, starting.cancel)
            try:
                return await starting
            except asyncio.CancelledError:
                return None
            except EngineStartError as error:
                self._failure = str(error)
                return None

    def _prepare(self, settings: Settings, engine: Keeper) -> None:
        """Make what the work needs, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._forced = asyncio.Event()
        self._is_draining = False
        self._signalled_at = -math.inf
        self._engine = engine
        self._max_deliveries = settings.max_deliveries
        tiers = settings.tiers()
        reserve = settings.reserve_seats
        self._admission = Admission(
            engine.seats,
            self.queue_names(),
            high_queue=tiers.high_queue,
            reserve=engine.seats // 8 if reserve is None else reserve,
            is_gated=engine.is_gated,
            fixed=settings.max_inflight,
        )
        self._redis_thread = ThreadPoolExecutor(1, thread_name_prefix="redis")
        once = commands_like(self.connection, repeat=False)
        self._claims = Claims(
            once, self.name, self.queue_names(), settings.lease_s, self.serializer, self.job_class
        )
        self._suspension = Suspension(self._commands, self.show_idle)
        self._upkeep = self._make_upkeep()
        self._tokens = Tokens(self._commands)
        self._finisher = Finisher(self, self._commands, tiers, self._tokens)
        tell = Callbacks(self._on_ended, lambda: self._claiming.on_left())
        threads = Threads(min(settings.max_inflight or MAX_THREADS, MAX_THREADS))
        runner = Runner(engine, tiers, Callables(threads))
        self._inflight = Inflight(
            runner,
            Hooks(Threads(MAX_HOOKS), self._exc_handlers),
            tell,
            show_descriptions=self.log_job_description,
            tokens=self._tokens,
        )
        self._claiming = Claiming(self._claims, self._inflight, self._finisher, self._admission)
        self._pace = Pace(self._admission, tiers.tiers)

    def _make_upkeep(self) -> Upkeep:
        return Upkeep(
            commands_like(self.connection),
            self.name,
            self.queue_names(),
            serializer=self.serializer,
            handlers=self._exc_handlers,
            max_deliveries=self._max_deliveries,
        )

    async def _serve(self, settings: Settings, until: Until) -> None:
        """Register, work, drain, say goodbye."""
        for signum in SIGNALS:
            self._loop.add_signal_handler(signum, self._on_signal, signum)
        self._register()
        self._is_serving = True
        await self._in_thread(self._upkeep.once)
        pause_s = options.heartbeat_s(self.job_monitoring_interval, settings.lease_s)
        tasks = [
            self._loop.create_task(self._finisher.run()),
            self._loop.create_task(self._tokens.run()),
            self._loop.create_task(self._heartbeats(pause_s)),
            self._loop.create_task(self._suspension.watch(self._in_thread)),
            self._loop.create_task(self._upkeep.keep(asyncio.to_thread, self.maintenance_interval)),
            self._loop.create_task(self._engine.keep(self._on_engine_death, self._on_engine_back)),
        ]
        for task in tasks:
            task.add_done_callback(self._on_task_end)
        try:
            await self._claiming.run(until, listener_like(self.connection))
            await self._drain(settings.drain_s if self._is_draining else None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._forced.is_set():
                self._finisher.close()
            with suppress(*UNAVAILABLE):  # the record expires by itself
                self.teardown()

    def _on_ended(self, claim: Claim, ending: Ending) -> None:
        self._finisher.put(claim, ending)
        try:
            self._pace.ended(claim, ending, is_backlogged=self._claiming.is_backlogged)
        except Exception as error:  # an engine's answer of a shape that nobody foresaw
            extra = {"event": "pace.failed", "job_id": claim.job.id, "error": error}
            logger.warning("a job was not measured", extra=extra)

    async def _on_engine_death(self, inside: frozenset[str]) -> None:
        """Give what was inside back to its queues, where each job waits to run alone."""
        self._claiming.pause()
        orphans = await self._inflight.orphans(inside)
        report = partial(report_death, max_deliveries=self._max_deliveries)
        try:
            await self._in_thread(report, self._commands, orphans)
        except UNAVAILABLE as error:  # then the leases expire, to the same effect
            extra = {"event": "engine.death_unreported", "error": error}
            logger.warning("the death of the engine was not reported", extra=extra)
        self._inflight.forget(orphans)

    def _on_engine_back(self) -> None:
        self._claiming.resume()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """End the worker if one of its own tasks ends: without it jobs would hang, unnoticed."""
        if task.cancelled() or not (error := task.exception()):
            return
        if isinstance(error, EngineStartError):
            self._fail(str(error))
        else:
            extra = {"event": "worker.broken", "task": task.get_name()}
            logger.error("worker broken", extra=extra, exc_info=error)
            self._fail("the worker failed, see its log")

    def _fail(self, failure: str) -> None:
        self._failure = self._failure or failure
        self._is_draining = True
        self._claiming.stop()
        self._forced.set()

    # The worker's record in RQ

    def _register(self) -> None:
        """Appear in RQ: only now, since only now can jobs be run."""
        self.register_birth()
        self._renew_record()
        engine = self._engine
        models.announce(
            self._commands,
            models.ModelView(engine.model, engine.max_model_len, engine.kind, time.time()),
        )
        extra = {
            "event": "worker.ready",
            "worker": self.name,
            "queues": ",".join(self.queue_names()),
            "engine": engine.kind,
            "model": engine.model,
            "seats": engine.seats,
            "gated": engine.is_gated,
        }
        logger.info("worker ready", extra=extra)

    async def _heartbeats(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._heartbeat()
            except UNAVAILABLE as error:
                extra = {"event": "heartbeat.waiting", "error": error}
                logger.warning("heartbeat waits for Redis", extra=extra)

    async def _heartbeat(self) -> None:
        """Renew the leases and the record; drop what was lost, abort what was cancelled or late."""
        claims = self._inflight.claims
        verdicts = await self._in_thread(self._claims.renew, claims)
        for claim, verdict in zip(claims, verdicts, strict=True):
            if verdict == "stop":
                self._inflight.stop(claim.job.id)
            elif verdict == "expired":
                self._inflight.expire(claim)
            elif verdict == "lost":
                extra = {"event": "lease.lost", "job_id": claim.job.id}
                logger.warning("lease lost", extra=extra)
                self._inflight.drop(claim)
        await self._in_thread(self._renew_record)
        measured, scored = self._pace.report()
        ttl_s = options.record_s(self.worker_ttl, self._claims.lease_s)
        publish = partial(rates.publish, ttl_s=ttl_s)
        await self._in_thread(publish, self._commands, self.name, measured)
        await self._in_thread(scores.publish, self._commands, scored)

    def _renew_record(self) -> None:
        """Keep the worker's record; write it again should it have expired."""
        known = self._commands.exists(self.key)
        with self._commands.pipeline() as pipeline:
            if not known:
                pipeline.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipeline)
            self._show_state(pipeline)
            ttl = options.record_s(self.worker_ttl, self._claims.lease_s)
            self.heartbeat(ttl, pipeline=pipeline)
            pipeline.execute()

    def show_idle(self) -> None:
        """Record that nothing is in flight, if so, without waiting for the next heartbeat."""
        if not self._inflight:
            with self._commands.pipeline() as pipeline:
                self._show_state(pipeline)
                pipeline.execute()

    def _show_state(self, pipeline: Pipeline) -> None:
        """Record whether anything is in flight; `current_job` is the latest of what is."""
        rest = WorkerStatus.SUSPENDED if self._suspension.is_on else WorkerStatus.IDLE
        self.set_state(WorkerStatus.BUSY if self._inflight else rest, pipeline=pipeline)
        latest = self._inflight.latest
        self.set_current_job_id(latest.job.id if latest else None, pipeline=pipeline)

    # Commands, signals, the end

    def handle_payload(self, message: Any) -> None:
        """Carry out a command of RQ's: `stop-job` stops one of many, `kill-horse` fails all."""
        payload = parse_payload(message)
        match payload.get("command"):
            case "stop-job" | "kill-horse" if not self._is_serving:
                return
            case "stop-job":
                stopping = self._stop(str(payload.get("job_id")))
                asyncio.run_coroutine_threadsafe(stopping, self._loop)
            case "kill-horse":
                self.kill_horse()
            case _:
                super().handle_payload(message)

    async def _stop(self, job_id: str) -> None:
        """Stop a job; one whose claim is still on its way here, with the next heartbeat."""
        if self._inflight.stop(job_id):
            return
        try:
            if await self._in_thread(request_stop, self._commands, job_id, self.name):
                self._inflight.stop(job_id)
        except UNAVAILABLE as error:
            extra = {"event": "stop.lost", "job_id": job_id, "error": error}
            logger.warning("a command to stop a job is lost", extra=extra)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Fail every job in flight; there is no process to send `sig` to."""
        extra = {"event": "worker.kill_horse", "jobs": len(self._inflight)}
        logger.warning("jobs in flight are failed on command", extra=extra)
        self._loop.call_soon_threadsafe(self._inflight.kill_all)

    def _on_signal(self, signum: signal.Signals) -> None:
        before, self._signalled_at = self._signalled_at, time.monotonic()
        if options.is_echo(signum, self._signalled_at - before):
            return
        if self._is_draining:
            self._forced.set()
        name = signal.Signals(signum).name
        extra = {"event": "worker.draining", "signal": name, "inflight": len(self._inflight)}
        logger.info("worker draining", extra=extra)
        self._is_draining = True
        self._claiming.stop()
        if self._inflight:
            self._stop_requested = True
            self._shutdown_requested_date = now()
            instant = utcformat(self._shutdown_requested_date)
            field = "shutdown_requested_date"
            self._redis_thread.submit(self._commands.hset, self.key, field, instant)

    async def _drain(self, drain_s: float | None) -> None:
        """Finish what is in flight for up to `drain_s` (None: however long), hand back the rest."""
        await self._unless_forced(self._inflight.until_empty(), drain_s)
        await self._hand_back(await self._inflight.abort_all())
        if not self._failure:
            await self._unless_forced(self._finisher.settle(), drain_s)

    async def _unless_forced(self, work: Coroutine[Any, Any, None], most_s: float | None) -> None:
        """Let `work` go on for up to `most_s`, or until a second signal."""
        working = self._loop.create_task(work)
        forced = self._loop.create_task(self._forced.wait())
        either = asyncio.FIRST_COMPLETED
        await asyncio.wait({working, forced}, timeout=most_s, return_when=either)
        working.cancel()
        forced.cancel()

    async def _hand_back(self, claims: list[Claim]) -> None:
        """Put jobs in front of their queues, uncharged; without Redis their leases must expire."""
        if not claims:
            return
        try:
            released = await self._in_thread(self._claims.release, claims)
        except UNAVAILABLE as error:
            extra = {"event": "worker.not_released", "jobs": len(claims), "error": error}
            logger.warning("jobs not handed back", extra=extra)
        else:
            so_far = sum(claim.so_far is not None for claim in claims)
            extra = {"event": "worker.released", "jobs": released, "with_output": so_far}
            logger.info("jobs handed back", extra=extra)

    async def _in_thread(self, call: Any, *args: Any) -> Any:
        return await self._loop.run_in_executor(self._redis_thread, call, *args)


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where vLLM has brought it: about a tenth less CPU per job."""
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
