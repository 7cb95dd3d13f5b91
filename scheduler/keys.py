"""Keys: every Redis key and channel that Slalom touches, and the scripts that write them.

RQ's (written as RQ would; `tests/contract` compares):

    rq:queue:{queue}                list    job ids, next first
    rq:queue:{queue}@{tenant}       list    the same of one tenant, whose line this is
    rq:job:{job}                    hash    the job
    rq:wip:{queue}                  zset    "{job}:{execution}" -> lease deadline + RQ_GRACE_S
    rq:execution:{job}:{execution}  hash    id, created_at, last_heartbeat, worker_name, and ours:
                                            lease_until (epoch s), alone (1: of a suspect)
    rq:executions:{job}             zset    execution id -> expiry (epoch s)
    rq:results:{job}                stream  one entry per attempt that ended
    rq:finished|failed|canceled:{queue}  zset  job id -> expiry (epoch s)
    rq:scheduled:{queue}            zset    job id -> due (epoch s)
    rq:worker:{name}                hash    a worker

Fields of our own in `rq:job:{job}`, gone once it has succeeded: `attempts` (how often it was
started), `worker_deaths` (how many of them died) and `suspect` (1 from the first death on),
`stop_requested` (1 once a caller cancelled it), `promoted` (1 once it was moved to the front),
`so_far` (JSON, what it has of its output while it waits after a hand-back) and `resumed` (how often
it went on from that): `scheduler.so_far`. One that was cut off while it ran has `partial`, the JSON
of its OpenAI response as far as it came, until it is claimed again. `attempts` stands in a record,
0 even, if and only if the job has started since it was submitted or replayed. Its deadlines stay:
`start_by`, `finish_by`, `deadline_since`, and `promote_at`, from when on it may be promoted (all
epoch s). So do `place` (`scheduler.line`) and `promise` (`scheduler.estimate`), until a retry or a
replay puts the job at the end of a queue again; and `stream` (1: its tokens are kept as they come)
with `starts`, how often it was claimed since, which is the attempt that its events name. A job of a
tenant has `account`, "tenant tier tokens": among whose open jobs it counts; `home`, the weight and
the name of its line, and while it waits there `line`, the name; a job without `line` waits in its
queue's own list (`scheduler.fair_share`).

Ours:

    slalom:starting:{queue}    zset     worker whose engine still starts -> expiry (epoch s)
    slalom:deadlines:{queue}   zset     job id -> when to look whether it has expired;
                                        0: a claim found it late and took it out of its queue
    slalom:promotions:{queue}  zset     job id -> its `promote_at`; +inf: it is promoted
    slalom:ended               channel  ids of jobs that just ended, space-separated
    slalom:events:{job}        stream   {attempt}-{n} -> body: the n-th chunk of an attempt, n = 0
                                        its start; expires with the job (`scheduler.events`)
    slalom:events              channel  the same as it is written: lines of "{job} {id} {body}"
    slalom:models              hash     model name -> JSON {max_model_len, engine, …}
    slalom:line:{queue}        hash     jobs, work: how many ever entered, with how much work;
                                        lined_jobs, lined_work: the same of its tenants' lines
    slalom:line:{line}         hash     jobs, work, for a day after the last one entered
    slalom:turns:{queue}       zset     line -> its turn, the smallest is next; one of the lines is
                                        the queue's own list; nothing where no tenant's jobs wait
    slalom:weights:{queue}     hash     line of a tenant -> its weight
    slalom:bell:{queue}        list     one entry while jobs wait in lines of tenants
    slalom:rates:{worker}      string   JSON of what the worker measures, expires with its record
    slalom:scores:{queue}      list     how far recent promises were off, latest first
    slalom:p90:{queue}         hash     which share of them a p90 is, of the start and the finish
    slalom:jobs:{tenant}       zset     job id -> created_at (epoch s), of every job with a record
    slalom:listed              set      tenants that have such a list
    slalom:once:{tenant}:{digest}  string  "{job} {fingerprint}": what an Idempotency-Key made
    slalom:tenants             hash     tenant -> JSON of its record (`scheduler.tenants`)
    slalom:api-keys            hash     SHA-256 of an API key -> tenant
    slalom:api-keys:{tenant}   hash     SHA-256 of an API key -> JSON: prefix, created_at,
                                        expires_at
    slalom:key-uses:{tenant}   hash     SHA-256 of an API key -> when it was last used (epoch s)
    slalom:rate:{tenant}:{tier}  hash   second (epoch) -> "requests tokens" that came in it, for the
                                        last minute; expires with it
    slalom:open:{tenant}:{tier}  zset   "{job}:{tokens}" of jobs that have not ended -> accepted at
    slalom:open:{tenant}       hash     tier -> the tokens of those jobs together
    slalom:file:{file}            hash    a file's record: scheduler.files
    slalom:file:{file}:{n}        string  its n-th piece, compressed
    slalom:files:{tenant}         zset    file id -> created_at (epoch s)
    slalom:batch:{batch}          hash    a batch's record: scheduler.batches
    slalom:batch:{batch}:lease    string  who works on it for now: scheduler.batch_keeper
    slalom:batch:{batch}:open     hash    line -> custom_id (JSON), where a job has it
    slalom:batch:{batch}:doubled  string  bitmap of lines whose custom_id an earlier line has
    slalom:batch:{batch}:out      string  the end of its output, until that makes a piece
    slalom:batch:{batch}:err      string  the same of its error file
    slalom:batches                zset    batch id -> created_at, of those that have not ended
    slalom:batches:of:{tenant}    zset    batch id -> created_at, of all that are kept
    slalom:batches:active:{tenant}  set   batch ids, of those that have not ended

Jobs leave the two zsets when they succeed or are cancelled; what ended otherwise is dropped when
its turn to be looked at comes.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.commands.core import Script

ENDED = "slalom:ended"
EVENTS = "slalom:events"
LISTED = "slalom:listed"
MODELS = "slalom:models"
TENANTS = "slalom:tenants"
API_KEYS = "slalom:api-keys"
BATCHES = "slalom:batches"

RQ_GRACE_S = 60
"""How far behind the lease deadline the started registry's score lies: RQ's own clean-up (which `rq
info` and the dashboard trigger) fails what is past its score, and must never come before our
rescue."""


def starting(queue: str) -> str:
    """Return the key of the workers that will serve `queue` once their engine has started."""
    return f"slalom:starting:{queue}"


def queue(name: str) -> str:
    """Return the key of RQ's list of waiting jobs."""
    return f"rq:queue:{name}"


def started(name: str) -> str:
    """Return the key of RQ's started registry of a queue."""
    return f"rq:wip:{name}"


def failed(name: str) -> str:
    """Return the key of RQ's failed registry of a queue."""
    return f"rq:failed:{name}"


def scheduled(name: str) -> str:
    """Return the key of RQ's scheduled registry of a queue."""
    return f"rq:scheduled:{name}"


def deadlines(queue: str) -> str:
    """Return the key of the jobs of a queue that have a deadline."""
    return f"slalom:deadlines:{queue}"


def promotions(queue: str) -> str:
    """Return the key of the jobs of a queue that may be promoted."""
    return f"slalom:promotions:{queue}"


def worker(name: str) -> str:
    """Return the key of RQ's worker record."""
    return f"rq:worker:{name}"


def line(queue: str) -> str:
    """Return the key of the odometer of a queue."""
    return f"slalom:line:{queue}"


def turns(queue: str) -> str:
    """Return the key of whose turn it is in a queue."""
    return f"slalom:turns:{queue}"


def weights(queue: str) -> str:
    """Return the key of the weights of a queue's lines."""
    return f"slalom:weights:{queue}"


def bell(queue: str) -> str:
    """Return the key of what tells that jobs wait in lines of a queue."""
    return f"slalom:bell:{queue}"


def rates(worker: str) -> str:
    """Return the key of what a worker measures."""
    return f"slalom:rates:{worker}"


def p90(queue: str) -> str:
    """Return the key of the share of its scores that a p90 of a queue is."""
    return f"slalom:p90:{queue}"


def scores(queue: str) -> str:
    """Return the key of how far recent promises to jobs of a queue were off."""
    return f"slalom:scores:{queue}"


def jobs(tenant: str) -> str:
    """Return the key of the list of a tenant's jobs."""
    return f"slalom:jobs:{tenant}"


def once(tenant: str, digest: str) -> str:
    """Return the key of what a tenant's Idempotency-Key made."""
    return f"slalom:once:{tenant}:{digest}"


def api_keys_of(tenant: str) -> str:
    """Return the key of the API keys of a tenant."""
    return f"slalom:api-keys:{tenant}"


def api_key_uses(tenant: str) -> str:
    """Return the key of when the API keys of a tenant were last used."""
    return f"slalom:key-uses:{tenant}"


def rate(tenant: str, tier: str) -> str:
    """Return the key of what a tenant asked of a tier in the last minute."""
    return f"slalom:rate:{tenant}:{tier}"


def open_jobs(tenant: str, tier: str) -> str:
    """Return the key of the open jobs of a tenant in a tier."""
    return f"slalom:open:{tenant}:{tier}"


def open_tokens(tenant: str) -> str:
    """Return the key of the tokens of a tenant's open jobs."""
    return f"slalom:open:{tenant}"


def events(job_id: str) -> str:
    """Return the key of what is kept of a job's output as it comes."""
    return f"slalom:events:{job_id}"


def file(file_id: str) -> str:
    """Return the key of a file's record."""
    return f"slalom:file:{file_id}"


def piece(file_id: str, number: int) -> str:
    """Return the key of a piece of a file, counted from 0."""
    return f"slalom:file:{file_id}:{number}"


def files_of(tenant: str) -> str:
    """Return the key of the index of a tenant's files."""
    return f"slalom:files:{tenant}"


def batch(batch_id: str, part: str = "") -> str:
    """Return the key of a batch's record, or of a part: lease, open, doubled, out, err."""
    return f"slalom:batch:{batch_id}:{part}" if part else f"slalom:batch:{batch_id}"


def batches_of(tenant: str) -> str:
    """Return the key of the index of a tenant's batches."""
    return f"slalom:batches:of:{tenant}"


def active_batches_of(tenant: str) -> str:
    """Return the key of the batches of a tenant that have not ended."""
    return f"slalom:batches:active:{tenant}"


_PART = re.compile(rb"^-- with (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> bytes:
    """Return the text of the script `lua/{name}.lua`, for EVAL within a transaction.

    A line `-- with {part}` stands for the functions in `lua/{part}.lua`.
    """
    text = files("scheduler.lua").joinpath(f"{name}.lua").read_bytes()
    return _PART.sub(lambda line: source(line[1].decode()), text)


@cache
def _script(name: str) -> Script:
    return Script(None, source(name))  # type: ignore[arg-type]  # every call names its client


def script(connection: Redis, name: str) -> Callable[..., Any]:
    """Return the script `lua/{name}.lua`, to be called with keys, args and perhaps a client.

    Without a client it runs on `connection`.
    """

    def run(keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Redis | None = None) -> Any:
        return _script(name)(keys, args, connection if client is None else client)

    return run
