"""Claiming: keep the engine full, and take a job at the instant at which it comes.

How many jobs the worker holds is `admission`'s to say. It claims when half of its buffer is used
up; once its queues are empty, the doorbell claims.

A suspect runs alone. While one stands in front of a queue, only queues before it are claimed from,
so that the worker empties and takes the suspect; after PATIENCE_S not even those.
"""

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from redis import Redis
from rq.suspension import is_suspended

from config.connections import UNAVAILABLE
from gpu_worker.admission import Admission
from gpu_worker.doorbell import Doorbell
from gpu_worker.finish import FIRST_PAUSE_S, LONGEST_PAUSE_S, Finisher
from gpu_worker.inflight import Inflight
from scheduler.claim import Claim, Claims

logger = logging.getLogger(__name__)

FIRST_POLL_S, LONGEST_POLL_S = 0.001, 0.25
"""Pauses after claims that found nothing where a job stands, as while RQ is suspended."""
LONGEST_WAIT_S = 1.0
PATIENCE_S = 10.0
"""How long a suspect yields to jobs of queues before its own."""


@dataclass(frozen=True, slots=True)
class Until:
    """What ends the work besides a signal: RQ's `--burst`, `--max-jobs`, `--max-idle-time`."""

    burst: bool
    max_jobs: int | None
    max_idle_s: float | None

    def room(self, free: int, num_claimed: int) -> int:
        """Return how many of `free` jobs may be claimed now."""
        return free if self.max_jobs is None else min(free, self.max_jobs - num_claimed)

    def reached(self, num_claimed: int) -> bool:
        """Whether enough jobs were claimed."""
        return self.max_jobs is not None and num_claimed >= self.max_jobs

    def idle(self, idle_s: float) -> bool:
        """Whether a worker without jobs, waiting or in flight, may leave."""
        return self.burst or (self.max_idle_s is not None and idle_s >= self.max_idle_s)


class Claiming:
    """The loop that claims, on the worker's event loop."""

    def __init__(
        self, claims: Claims, inflight: Inflight, finisher: Finisher, admission: Admission
    ) -> None:
        self._claims = claims
        self._inflight = inflight
        self._finisher = finisher
        self._admission = admission
        self._num_left = 0
        """Jobs that left since the last claim."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claim")
        self._wake = asyncio.Event()
        self._drained: set[int] = set()
        """Places of the queues that held less than was asked for."""
        self._poll_s = FIRST_POLL_S
        self._answered: asyncio.Future[int] = self._loop.create_future()
        self._stopped = False
        self._paused = False
        self._closed_at: float | None = None
        self.num_claimed = 0

    @property
    def is_backlogged(self) -> bool:
        """Whether the last claim may have left jobs that there was no room for."""
        return len(self._drained) < len(self._claims.queues)

    async def run(self, until: Until, listener: Redis) -> None:
        """Claim until stopped, or until `until` says that it is enough."""
        doorbell = Doorbell(listener, self._claims.queues)
        try:
            await self._run(until, doorbell)
        finally:
            doorbell.stop()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopped = True
        self._wake.set()

    def pause(self) -> None:
        """Claim nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Claim again."""
        self._paused = False
        self._wake.set()

    def on_left(self) -> None:
        """Claim again if half of the buffer is used up, or nothing is left."""
        now = time.monotonic()
        self._admission.endings.add(now)
        self._num_left += 1
        is_short = self._num_left >= self._admission.refill(now)
        if not self._inflight or (is_short and self.is_backlogged):
            self._wake.set()

    async def _run(self, until: Until, doorbell: Doorbell) -> None:
        busy_at = time.monotonic()
        while not self._stopped and not until.reached(self.num_claimed):
            self._wake.clear()
            rooms = self._rooms()
            if self._may_find(rooms) or (until.burst and any(rooms)):
                seats = self._admission.seats  # no more at once: the first ones start the sooner
                await self._claim(until.room(min(sum(rooms), seats), self.num_claimed), rooms)
                rooms = self._rooms()
            if self._inflight or self._paused:
                busy_at = time.monotonic()
            elif self._finisher.num_unwritten:
                await self._until_settled()  # what is written may put new jobs into our queues
                continue
            elif until.idle(time.monotonic() - busy_at):
                if until.burst or not await self._must_stay(rooms):
                    return
                busy_at = time.monotonic()
                continue
            if room := until.room(sum(rooms), self.num_claimed):
                await self._listen(doorbell, room, rooms)
            else:
                await self._until_woken(LONGEST_WAIT_S)

    async def _must_stay(self, rooms: list[int]) -> bool:
        """Whether a job came after all, or stands that cannot be claimed while RQ is suspended."""
        look = partial(is_suspended, self._claims.connection)
        try:
            if await self._loop.run_in_executor(self._thread, look):
                return True
        except UNAVAILABLE:
            return True
        await self._claim(1, rooms)
        return bool(self._inflight)

    def _rooms(self) -> list[int]:
        """Return how many jobs of each queue to claim; none while too many results wait."""
        now = time.monotonic()
        rooms = self._admission.rooms(*self._num_high_and_low(), now)
        unwritten = self._finisher.num_unwritten
        if self._paused or unwritten > self._admission.most(now) or self._must_empty():
            return [0] * len(rooms)
        return rooms

    def _num_high_and_low(self) -> tuple[int, int]:
        high = self._inflight.num_of(self._admission.high_queue)
        return high, len(self._inflight) - high

    def _may_find(self, rooms: list[int]) -> bool:
        """Whether a queue with room may have a job."""
        return any(room and place not in self._drained for place, room in enumerate(rooms))

    def _must_empty(self) -> bool:
        """Whether what is in flight must end first: a suspect is, or has waited long enough."""
        if not self._inflight:
            return False
        waited_s = time.monotonic() - self._closed_at if self._closed_at else 0.0
        return self._inflight.is_exclusive or waited_s > PATIENCE_S

    async def _claim(self, count: int, rooms: list[int]) -> None:
        """Start up to `count` jobs, however long Redis is away."""
        self._launch(await self._take(count, rooms), count, rooms)

    def _launch(self, claims: list[Claim], count: int, rooms: list[int]) -> None:
        for claim in claims:
            self._inflight.launch(claim)
        self.num_claimed += len(claims)
        self._num_left = 0
        num_of = Counter(claim.queue for claim in claims)
        is_open = self._claims.num_open == len(self._claims.queues)
        self._drained = {
            place
            for place, queue in enumerate(self._claims.queues[: self._claims.num_open])
            if num_of[queue] < rooms[place] and len(claims) < count
        }
        if is_open or self._inflight.is_exclusive:
            self._closed_at = None
        elif self._closed_at is None:
            self._closed_at = time.monotonic()

    async def _take(self, count: int, rooms: list[int]) -> list[Claim]:
        pause_s = FIRST_PAUSE_S
        while not self._stopped:
            take = partial(self._claims.take, count, most=rooms, is_empty=not self._inflight)
            try:
                return await self._loop.run_in_executor(self._thread, take)
            except UNAVAILABLE as error:
                extra = {"event": "claim.waiting", "error": error}
                logger.warning("claiming waits for Redis", extra=extra)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        return []

    async def _listen(self, doorbell: Doorbell, count: int, rooms: list[int]) -> None:
        """Let the doorbell claim up to `count` jobs, once, until woken."""
        self._answered = self._loop.create_future()
        answer = partial(self._answer, count, rooms, is_empty=not self._inflight)
        doorbell.arm(answer, min(self._claims.num_open, sum(map(bool, rooms))))
        await self._until_woken(LONGEST_WAIT_S)
        if doorbell.disarm():
            return
        if await self._answered:
            self._poll_s = FIRST_POLL_S
        else:  # a job stands that cannot be claimed now
            self._wake.clear()
            await self._until_woken(self._poll_s)
            self._poll_s = min(2 * self._poll_s, LONGEST_POLL_S)

    def _answer(self, count: int, rooms: list[int], *, is_empty: bool) -> None:
        """Claim, in a thread of the doorbell's."""
        claims: list[Claim] = []
        try:
            claims = self._claims.take(count, most=rooms, is_empty=is_empty)
        except UNAVAILABLE as error:
            extra = {"event": "claim.waiting", "error": error}
            logger.warning("claiming waits for Redis", extra=extra)
        finally:
            self._loop.call_soon_threadsafe(self._on_answer, claims, count, rooms)

    def _on_answer(self, claims: list[Claim], count: int, rooms: list[int]) -> None:
        self._launch(claims, count, rooms)
        self._answered.set_result(len(claims))
        self._wake.set()

    async def _until_settled(self) -> None:
        """Wait for every ending to be written, or the stop."""
        settling = self._loop.create_task(self._finisher.settle())
        waking = self._loop.create_task(self._wake.wait())
        await asyncio.wait({settling, waking}, return_when=asyncio.FIRST_COMPLETED)
        settling.cancel()
        waking.cancel()

    async def _until_woken(self, longest_s: float) -> None:
        """Wait for an answered doorbell, a seat that came free, or the stop."""
        try:
            async with asyncio.timeout(longest_s):
                await self._wake.wait()
        except TimeoutError:
            return
