"""Dashboard views: rq-dashboard 0.9, corrected from outside; each correction has a test.

    serializer   jobs are read and requeued as JSON; upstream writes their meta back as a pickle
    tolerance    a record that is no JSON, or a job that is gone, spoils no list
    requeue      is the replay of scheduler.dead_letters
    compact      drops dead ids where they are; upstream empties the queue while it looks for them
    connection   the application's client; upstream makes a new one for every request
    escaping     what models and callers wrote is text; upstream puts it into the page as HTML

Upstream is one module with one blueprint, so the corrections are put into that module, once.
"""

import json
from collections.abc import Mapping
from html import escape
from typing import Any, cast

from flask import Response, current_app
from redis import Redis
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from rq_dashboard import web

from api.problems import NotRequeueable
from scheduler.dead_letters import DeadLetters, NotDeadLetter, NotReplayable
from scheduler.jobs import UnknownJob

CONNECTION = "slalom_dashboard_connection"
"""Where the application keeps its client, in `app.extensions`."""

TIERS = "slalom_dashboard_tiers"
"""Where it keeps the SLA table."""


class JsonJob(Job):
    """A job whose record is JSON, and that can be shown if it is not."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:
        """Fetch with the JSON serializer where none is named."""
        return super().fetch(id, connection=connection, serializer=serializer or JSONSerializer)

    def latest_result(self, timeout: int = 0) -> Result | None:
        """Return the latest result, None for one that is no JSON."""
        try:
            return super().latest_result(timeout)
        except ValueError:
            return None

    def get_meta(self, refresh: bool = True) -> dict[str, Any]:
        """Return the meta, empty for one that is no JSON."""
        try:
            return super().get_meta(refresh)
        except ValueError:
            return {}

    def get_call_string(self) -> str | None:
        """Return the description, escaped: the workers page shows it as HTML."""
        return escape(self.description or self.id)


class JsonQueue(Queue):
    """A queue of such jobs."""

    job_class = JsonJob

    @classmethod
    def all(cls, connection: Redis, *args: Any, **options: Any) -> list[Queue]:
        """Return every queue, with the JSON serializer where none is named."""
        return super().all(connection, *args, **{"serializer": JSONSerializer, **options})

    def compact(self) -> None:
        """Remove the ids of jobs that are gone; all others keep their places."""
        for job_id in self.get_job_ids():
            if not Job.exists(job_id, self.connection):
                self.connection.lrem(self.key, 0, job_id)


class JsonWorker(Worker):
    """A worker of such jobs, to look at."""

    job_class = JsonJob

    @classmethod
    def all(cls, connection: Redis | None = None, *args: Any, **options: Any) -> list[Any]:
        """Return every worker, with the JSON serializer where none is named."""
        return super().all(connection, *args, **{"serializer": JSONSerializer, **options})

    def get_current_job(self) -> Job | None:
        """Return the job a worker names as its current one, None if it is gone."""
        try:
            return super().get_current_job()
        except NoSuchJobError:
            return None

    def _set_connection(self, connection: Redis) -> Redis:
        """Leave the client's timeouts alone: RQ would make them those of a working worker."""
        return connection


def requeue(job_id: str, connection: Redis) -> Job:
    """Replay a dead letter; NotRequeueable if it is none, or not JSON."""
    letters = DeadLetters(connection, current_app.extensions[TIERS])
    try:
        return letters.replay(job_id)
    except UnknownJob as error:
        raise NoSuchJobError(job_id) from error
    except (NotDeadLetter, NotReplayable) as error:
        raise NotRequeueable(str(error)) from error


def correct() -> None:
    """Put the corrections into upstream's module; any number of times."""
    web.config.serializer = JSONSerializer
    web.Job, web.Queue, web.Worker = JsonJob, JsonQueue, JsonWorker
    web.requeue_job = requeue
    web.from_url = _client


def _client(url: str, **options: object) -> tuple[None, Redis]:
    """Stand in for upstream's connect: return the application's client."""
    return None, cast(Redis, current_app.extensions[CONNECTION])


def escape_job(response: Response) -> Response:
    """Escape every string of a job's data: the job page shows them as HTML."""
    response.set_data(json.dumps(_escaped(response.get_json())))
    return response


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {escape(key): _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value
