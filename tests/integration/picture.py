"""Picture: all that Redis holds of jobs, read in one step, in a form that a model can have too."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from scheduler import keys

QUEUES = ("high", "low")
PLACES = {
    "queued": "queue",
    "started": "wip",
    "scheduled": "scheduled",
    "finished": "finished",
    "failed": "failed",
    "canceled": "canceled",
}
"""Status -> where a job of it stands: `rq:{place}:{queue}`."""
ENDED = {"finished", "failed", "canceled"}
PASSED_AT = 1000
"""The instant of a deadline that has passed."""

RESULTS = {b"1": "finished", b"2": "failed"}
DUMP = """
local readers = {
  hash = {'HGETALL'},
  list = {'LRANGE', 0, -1},
  stream = {'XRANGE', '-', '+'},
  zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
}
local dump = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local reader = readers[redis.call('TYPE', key).ok]
  if reader then
    local value = redis.call(reader[1], key, unpack(reader, 2))
    dump[#dump + 1] = {key, redis.call('TTL', key), value}
  end
end
return dump
"""


@dataclass
class Job:
    """What its hash and its results say of a job."""

    queue: str
    retries_left: int
    status: str = "queued"
    worker: str = ""
    num_deaths: int = 0
    is_suspect: bool = False
    is_stopping: bool = False
    so_far: str = ""
    num_resumed: int = 0
    expires: bool = False
    has_started: bool = False
    passed: frozenset[str] = frozenset()
    """Its deadlines that have passed."""
    is_promoted: bool = False
    is_aside: bool = field(default=False, compare=False)
    """Whether a claim found it late; `places` tells."""
    home: str = ""
    """The line of its tenant, if it has one."""
    line: str = ""
    """The same while it waits there."""
    work: int | None = None
    """What was expected of it; None once that is forgotten."""
    results: list[tuple[str, str]] = field(default_factory=list)
    """Status and execution of each attempt that ended the job; no execution where none did."""

    @property
    def is_late(self) -> bool:
        """Whether it may not start any more."""
        return "finish_by" in self.passed or ("start_by" in self.passed and not self.has_started)


@dataclass
class Lease:
    """What the record of an execution and its entry in the started registry say."""

    job_id: str
    worker: str
    alone: bool
    expired: bool = False
    grace_s: int = keys.RQ_GRACE_S


@dataclass
class Picture:
    """Everything in Redis that has to do with jobs."""

    queues: dict[str, list[str]]
    """Every list in which jobs wait: of queues, and of lines in them."""
    turns: dict[str, dict[str, float]]
    """By queue, of its lines, where it has any."""
    weights: dict[str, dict[str, float]]
    places: dict[str, list[str]]
    """Every list and registry in which a job stands."""
    jobs: dict[str, Job]
    leases: dict[str, Lease]
    """By execution."""
    executions: dict[str, list[str]]
    """Of those jobs that RQ knows any of."""


def read(connection: Redis) -> Picture:
    """Return what Redis holds, strays included."""
    dump = {key.decode(): (ttl, value) for key, ttl, value in connection.eval(DUMP, 0)}

    def of(kind: str, prefix: str = "rq") -> dict[str, Any]:
        prefix = f"{prefix}:{kind}:"
        return {key[len(prefix) :]: dump[key][1] for key in dump if key.startswith(prefix)}

    standing = {place: of(place) for place in PLACES.values()}
    standing["aside"] = {
        queue: [
            part
            for pair in zip(flat[::2], flat[1::2], strict=True)
            if pair[1] == b"0"
            for part in pair
        ]
        for queue, flat in of("deadlines", "slalom").items()
    }
    results = of("results")
    return Picture(
        queues={name: _texts(ids) for name, ids in standing["queue"].items()},
        turns={queue: _numbers(flat) for queue, flat in of("turns", "slalom").items()},
        weights={queue: _numbers(flat) for queue, flat in of("weights", "slalom").items()},
        places=_places(standing),
        jobs={
            job_id: _job(_fields(flat), dump[f"rq:job:{job_id}"][0], results.get(job_id, []))
            for job_id, flat in of("job").items()
        },
        leases=dict(_leases(standing["wip"], of("execution"))),
        executions={job_id: _texts(flat[::2]) for job_id, flat in of("executions").items()},
    )


def _places(standing: dict[str, dict[str, list[bytes]]]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for place, by_queue in standing.items():
        for queue, flat in by_queue.items():
            ids = _texts(flat if place == "queue" else flat[::2])
            for job_id in (i.rpartition(":")[0] if place == "wip" else i for i in ids):
                places.setdefault(job_id, []).append(f"{place}:{queue}")
    return places


def _job(fields: dict[str, bytes], ttl: int, results: list[Any]) -> Job:
    entries = [_fields(flat) for _, flat in results]
    return Job(
        queue=fields["origin"].decode(),
        retries_left=int(fields["retries_left"]),
        status=fields["status"].decode(),
        worker=fields.get("worker_name", b"").decode(),
        num_deaths=int(fields.get("worker_deaths", 0)),
        is_suspect="suspect" in fields,
        is_stopping="stop_requested" in fields,
        so_far=fields.get("so_far", b"").decode(),
        num_resumed=int(fields.get("resumed", 0)),
        expires=ttl >= 0,
        has_started="attempts" in fields,
        is_promoted="promoted" in fields,
        home=fields.get("home", b" ").decode().split(" ", 1)[1],
        line=fields.get("line", b"").decode(),
        work=int(fields["place"].split()[2]) if "place" in fields else None,
        passed=frozenset(
            name
            for name in ("start_by", "finish_by")
            if name in fields and float(fields[name]) == PASSED_AT
        ),
        results=[
            (RESULTS[entry["type"]], entry.get("execution_id", b"").decode()) for entry in entries
        ],
    )


def _leases(
    registries: dict[str, list[bytes]], records: dict[str, list[bytes]]
) -> Iterator[tuple[str, Lease]]:
    scores = {
        member: float(score)
        for flat in registries.values()
        for member, score in _fields(flat).items()
    }
    for member in scores | records:
        record = _fields(records.get(member, []))
        until_s = float(record.get("lease_until", 0))
        job_id, _, execution = member.rpartition(":")
        yield (
            execution,
            Lease(
                job_id=job_id,
                worker=record.get("worker_name", b"").decode(),
                alone=record.get("alone") == b"1",
                expired=until_s == 1,
                grace_s=round(scores.get(member, 0.0) - until_s),
            ),
        )


def _numbers(flat: list[bytes]) -> dict[str, float]:
    return {name: float(value) for name, value in _fields(flat).items()}


def _fields(flat: list[bytes]) -> dict[str, bytes]:
    return dict(zip(_texts(flat[::2]), flat[1::2], strict=True))


def _texts(values: list[bytes]) -> list[str]:
    return [value.decode() for value in values]
