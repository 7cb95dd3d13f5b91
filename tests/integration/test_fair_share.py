"""Tenants of one queue take turns by weight, in work, whoever floods it."""

import itertools
from collections import Counter

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from scheduler import jobs, keys, workers
from scheduler.claim import Claim, Claims
from scheduler.deadlines import Deadlines
from scheduler.jobs import Request
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_claim import claims_of, ids

QUEUES = ["high", "low"]
SHORT = 10
CHUNK = 1_000
FILL = """
for n = 1, tonumber(ARGV[1]) do
  local id = table.concat({ARGV[2], ARGV[3], n}, '-')
  redis.call('COPY', 'rq:job:' .. ARGV[2], 'rq:job:' .. id)
  redis.call('RPUSH', KEYS[1], id)
end
"""


def request(tokens: int) -> Request:
    return Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": tokens})


def submit(
    submitter: Submitter,
    tenant: str,
    count: int = 1,
    *,
    tokens: int = SHORT,
    tier: str = "batch",
    weight: float = 1.0,
    deadlines: Deadlines | None = None,
) -> list[str]:
    return [
        submitter.submit(
            request(tokens), tier=tier, tenant=tenant, weight=weight, deadlines=deadlines
        ).id
        for _ in range(count)
    ]


def flood(connection: Redis, submitter: Submitter, tenant: str, count: int) -> None:
    """Let a tenant dump `count` jobs: copies of one that it submits."""
    [first] = submit(submitter, tenant)
    for n in range(count // CHUNK):
        connection.eval(FILL, 1, f"rq:queue:low@{tenant}", CHUNK, first, n)


def tenant_of(claim: Claim) -> str:
    return str(claim.job.meta["tenant"])


def take_one(claims: Claims) -> Claim:
    [claim] = claims.take(1)
    return claim


def lines(connection: Redis) -> set[str]:
    found = Queue.all(connection=connection, serializer=JSONSerializer)
    return {queue.name for queue in found if "@" in queue.name}


@pytest.mark.parametrize(("tier", "queue"), [("premium", "high"), ("batch", "low")])
def test_tenants_take_turns_in_every_queue(
    connection: Redis, submitter: Submitter, tier: str, queue: str
) -> None:
    submit(submitter, "acme", 10, tier=tier)
    submit(submitter, "bob", 3, tier=tier)

    taken = claims_of(connection).take(8)

    assert [claim.queue for claim in taken] == [queue] * 8
    assert "".join(tenant_of(claim)[0] for claim in taken) == "abababaa"


def test_a_hundred_thousand_jobs_of_one_tenant_delay_another_by_one(
    connection: Redis, submitter: Submitter
) -> None:
    flood(connection, submitter, "flood", 100_000)
    claims = claims_of(connection)
    claims.take(16)
    assert workers.depth(connection, "low") == (100_001 - 16, 16)

    for light in ("aaa", "zoe", "zoe", "aaa", "mid"):
        submit(submitter, light)
        num_before = 0
        while tenant_of(take_one(claims)) != light:
            num_before += 1

        assert num_before <= 1


def test_who_comes_late_has_earned_nothing_by_that(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "acme", 60)
    claims = claims_of(connection)
    claims.take(30)

    submit(submitter, "bob", 20)
    plain = Queue("low", connection=connection, serializer=JSONSerializer)
    for _ in range(20):
        plain.enqueue("math.sqrt", 4)

    got = Counter(claim.job.meta.get("tenant") for claim in claims.take(30))
    assert got == {"acme": 10, "bob": 10, None: 10}


def test_a_plain_rq_producer_is_not_delayed_by_a_flood_either(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "flood", 50)
    claims = claims_of(connection)
    claims.take(10)
    plain = Queue("low", connection=connection, serializer=JSONSerializer).enqueue("math.sqrt", 4)

    assert plain.id in ids(claims.take(2))


def test_weights_of_one_and_three_get_one_and_three_parts_of_the_work(
    connection: Redis, submitter: Submitter
) -> None:
    sizes = {"acme": itertools.cycle([300, 5]), "bob": itertools.cycle([40, 7, 90])}
    for _ in range(200):
        submit(submitter, "acme", tokens=next(sizes["acme"]), weight=1)
        submit(submitter, "bob", tokens=next(sizes["bob"]), weight=3)
    claims, got = claims_of(connection), Counter[str]()

    for _ in range(75):
        for claim in claims.take(2):
            assert claim.place is not None
            got[tenant_of(claim)] += claim.place.work
            assert abs(got["acme"] - got["bob"] / 3) <= 300 + 90 / 3

    assert got["bob"] > 2000


def test_a_new_weight_holds_for_all_that_waits(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "acme", 40)
    submit(submitter, "bob", 40)

    submit(submitter, "acme", weight=4)

    got = Counter(tenant_of(claim) for claim in claims_of(connection).take(20))
    assert got["acme"] == pytest.approx(16, abs=1)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_share_is_refused(
    connection: Redis, submitter: Submitter, weight: float
) -> None:
    with pytest.raises(ValueError, match="weight of low@acme"):
        submit(submitter, "acme", weight=weight)

    assert connection.dbsize() == 0


def test_without_tenants_there_are_no_lines(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "default", 5)
    claims = claims_of(connection)
    claims.release(claims.take(3))
    claims.take(9)

    for key in (keys.turns, keys.weights, keys.bell):
        assert connection.exists(key("low")) == 0
    assert lines(connection) == set()


def test_a_claim_costs_the_same_beside_a_thousand_lines(
    connection: Redis, submitter: Submitter
) -> None:
    def num_commands() -> int:
        connection.config_resetstat()
        assert len(claims_of(connection).take(16)) == 16
        stats = connection.info("commandstats")
        return sum(stat["calls"] for stat in stats.values())

    for n in range(16):
        submit(submitter, f"t{n}", 3)
    few = num_commands()
    for n in range(1000):
        submit(submitter, f"t{n}")

    assert num_commands() <= few + 16


def test_an_idle_worker_takes_a_tenants_job_and_one_that_comes_after(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    """It claims only when its doorbell rings, which no poll does for it."""
    start_worker("low")

    for tenant in ("acme", "acme", "bob", "default"):
        [job_id] = submit(submitter, tenant)
        until(lambda job_id=job_id: jobs.view(jobs.fetch(connection, job_id)).status == "succeeded")


def test_beside_a_flood_a_light_tenants_job_starts_after_one_other(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    flooded = submit(submitter, "flood", 400, tokens=20)
    start_worker("low", SLALOM_MAX_INFLIGHT="1")

    for _ in range(5):
        [light] = submit(submitter, "zoe", tokens=20)
        until(lambda light=light: jobs.fetch(connection, light).started_at)

        mine = jobs.fetch(connection, light)
        assert mine.enqueued_at is not None
        assert mine.started_at is not None
        starts = [jobs.fetch(connection, job_id).started_at for job_id in flooded]
        between = [at for at in starts if at and mine.enqueued_at < at < mine.started_at]
        assert len(between) <= 2  # the one whose turn it is, and one claimed just as zoe's came

    assert None in starts, "the flood was over too soon to show anything"
