"""Serving: an order becomes a job, and its client waits for the answer or reads it as it comes.

Who waits is registered before the job exists, so that no end is missed; where no more may wait, no
job is made. A client that hangs up has its job cancelled: nobody would read the answer. After the
synchronous limit the job goes on and the client is told where to look.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from flask import Response, request
from rq.job import Job

from api import answers, auth, sse
from api.context import Context
from api.openai_errors import request_id
from api.openai_stream import Dialect, Stream
from api.order import Order
from api.problems import ModelNotFound, NoRoomToWait, Problem, UnknownModel
from api.service_tier import word_of
from config.connections import UNAVAILABLE
from scheduler import cancel, jobs
from scheduler.jobs import UnknownJob

logger = logging.getLogger(__name__)

Speak = Callable[[str], Dialect]
"""Makes the dialect of a stream, given OpenAI's word for the tier that serves."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Serves the orders of OpenAI's routes."""

    context: Context

    def accept(self, order: Order) -> str:
        """Make the order a job with the id of the request; return OpenAI's word for its tier."""
        try:
            accepted = self.context.intake.accept(order, auth.caller(), job_id=request_id())
        except UnknownModel as error:
            raise ModelNotFound(error.detail, errors=error.errors) from None
        return word_of(accepted.tier, self.context.tiers)

    def wait(self, order: Order) -> Job:
        """Return the job of `order` once it has ended, or the time for waiting is over."""
        job_id, most_s = request_id(), self.context.settings.max_wait_s
        with self.context.waiters.expect(job_id) as ended:
            if ended is None:
                text = "as many requests wait here as may; try again, or submit with POST /v1/jobs"
                raise NoRoomToWait(text)
            self.accept(order)
            with self.context.hangups.watch(request.environ, ended.set) as client:
                ended.wait(most_s)
            if client.has_gone:
                self.abandon(job_id)
        return self.fetch(job_id)

    def stream(self, order: Order, speak: Speak, *, is_background: bool = False) -> Response:
        """Return the stream of the job of `order`, which in the background outlives its client."""
        job_id = request_id()
        with ExitStack() as stack:
            following = stack.enter_context(self.context.follower.follow(job_id))
            tier = self.accept(order)
            stream = Stream(job_id, following, speak(tier), partial(self.ending, job_id))
            stack.enter_context(self.context.hangups.watch(request.environ, stream.hang_up))
            if not is_background:
                self._begin(job_id, stream)
            held = stack.pop_all()

        def close() -> None:
            held.close()
            if not (stream.is_over or is_background):
                self.abandon(job_id)

        return sse.respond(request.environ, iter(stream), close)

    def fetch(self, job_id: str) -> Job:
        """Return the job that was accepted; StillRunning if Redis does not answer now."""
        try:
            return jobs.fetch(self.context.connection, job_id)
        except UNAVAILABLE:
            raise answers.still_running(job_id, "Redis does not answer") from None

    def abandon(self, job_id: str) -> None:
        """Cancel the job of a client that has gone."""
        try:
            outcome = cancel.cancel(
                self.context.connection, jobs.fetch(self.context.connection, job_id)
            )
        except (UnknownJob, *UNAVAILABLE) as error:
            extra = {"event": "job.not_abandoned", "job_id": job_id, "error": error}
            logger.warning("the client hung up; its job could not be canceled", extra=extra)
            return
        extra = {"event": "job.abandoned", "job_id": job_id, "outcome": outcome}
        logger.info("the client hung up", extra=extra)

    def ending(self, job_id: str) -> Problem:
        """Return why a job that ended has no answer."""
        return answers.problem_of(jobs.view(self.fetch(job_id)))

    def _begin(self, job_id: str, stream: Stream) -> None:
        try:
            stream.begin()
        except UNAVAILABLE:
            raise answers.still_running(job_id, "Redis does not answer") from None
