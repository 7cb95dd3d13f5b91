"""Ledger: what was accepted, what each job must answer, and the audit of how it all ended."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from config.settings import Settings
from models import sums
from models.sums import Sum
from scheduler.deadlines import NONE
from scheduler.jobs import Request
from scheduler.submit import Submitter
from tests.e2e.victims import in_flight

QUEUES = {"high": "premium", "low": "batch"}
MAX_TOKENS = 8

Submit = Callable[[Redis, str, Sum], Job]
IsRight = Callable[[str, Sum, Any], bool]


@dataclass(frozen=True)
class Kind:
    """A way to put a sum, and whether an answer to it is right."""

    submit: Submit
    is_right: IsRight


def callable_of(function: str) -> Kind:
    """Return sums that a function adds."""

    def submit(connection: Redis, queue: str, pair: Sum) -> Job:
        rq_queue = Queue(queue, connection=connection, serializer=JSONSerializer)
        return rq_queue.enqueue(f"tests.callables.{function}", *pair)

    return Kind(submit, lambda _, pair, value: value == sum(pair))


TIERS = Settings().tiers()


def _infer(connection: Redis, queue: str, pair: Sum) -> Job:
    body = {"prompt": sums.prompt(pair), "max_tokens": MAX_TOKENS, "temperature": 0}
    request = Request(endpoint="/v1/completions", body=body)
    submitter = Submitter(connection, TIERS)
    return submitter.submit(request, tier=QUEUES[queue], deadlines=NONE)  # kills take their time


def _is_simulated(job_id: str, _: Sum, value: Any) -> bool:
    """Whether this is the job's own answer; the simulated engine cannot add."""
    said = (value["id"], value["object"], value["usage"]["completion_tokens"])
    return said == (f"cmpl-{job_id}", "text_completion", MAX_TOKENS)


def _is_sum(job_id: str, pair: Sum, value: Any) -> bool:
    [choice] = value["choices"]
    return job_id in value["id"] and choice["text"] == sums.answer(pair)


SIMULATED = Kind(_infer, _is_simulated)
ADDER = Kind(_infer, _is_sum)
PLAIN = callable_of("add_slowly")
COROUTINE = callable_of("add_after_a_while")


@dataclass(frozen=True)
class Entry:
    """An accepted job."""

    id: str
    queue: str
    pair: Sum
    kind: Kind


class Ledger:
    """The accepted jobs."""

    def __init__(self, connection: Redis, kinds: list[Kind], pairs: list[Sum]) -> None:
        self._connection = connection
        self._entries = list(self._accept(kinds, pairs))
        self._executions: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_ended(self) -> int:
        """How many jobs are in a registry of ended ones."""
        registries = [f"rq:{how}:{queue}" for how in ("finished", "failed") for queue in QUEUES]
        return sum(int(self._connection.zcard(registry)) for registry in registries)

    def note_in_flight(self) -> None:
        """Remember what is in flight now, for the audit."""
        members = in_flight(self._connection)
        self._executions |= {f"rq:execution:{member}" for member in members}

    def audit(self) -> None:
        """Every job ended once, rightly, and is in no list but the finished ones."""
        results = [self._result(entry) for entry in self._entries]
        answers = zip(self._entries, results, strict=True)
        assert [e for e, r in answers if not e.kind.is_right(e.id, e.pair, r.return_value)] == []
        assert len({result.execution_id for result in results}) == len(self)
        assert self._executions_left(results) == 0
        for queue in QUEUES:
            self._audit_registries(Queue(queue, connection=self._connection))

    def _accept(self, kinds: list[Kind], pairs: list[Sum]) -> Iterator[Entry]:
        ways = cycle([(kind, queue) for kind in kinds for queue in QUEUES])
        for (kind, queue), pair in zip(islice(ways, len(pairs)), pairs, strict=True):
            yield Entry(kind.submit(self._connection, queue, pair).id, queue, pair, kind)

    def _result(self, entry: Entry) -> Result:
        """Return the one result of a finished job that bears no trace of a death."""
        job = Job.fetch(entry.id, connection=self._connection, serializer=JSONSerializer)
        assert job.get_status(refresh=False) == JobStatus.FINISHED, (entry, job.exc_info)
        assert self._connection.hmget(job.key, "suspect", "worker_deaths") == [None, None]
        results = job.results()
        assert [result.type for result in results] == [Result.Type.SUCCESSFUL], entry
        return results[0]

    def _executions_left(self, results: list[Result]) -> int:
        """Return how many records there are of the jobs' executions, noted ones included."""
        records = {f"rq:execution:{r.job_id}:{r.execution_id}" for r in results}
        of_jobs = {f"rq:executions:{entry.id}" for entry in self._entries}
        return int(self._connection.exists(*records, *of_jobs, *self._executions))

    def _audit_registries(self, queue: Queue) -> None:
        accepted = Counter(entry.id for entry in self._entries if entry.queue == queue.name)
        assert Counter(queue.finished_job_registry.get_job_ids(cleanup=False)) == accepted
        assert queue.job_ids == []
        for registry in (
            queue.started_job_registry,
            queue.failed_job_registry,
            queue.scheduled_job_registry,
            queue.deferred_job_registry,
            queue.canceled_job_registry,
        ):
            assert registry.get_job_ids(cleanup=False) == [], registry.key
