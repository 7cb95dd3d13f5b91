"""Whatever workers, rescuers and callers do, in any order: Redis holds what the model says."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from config.tiers import Promotion, TierTable
from scheduler import jobs, keys
from scheduler.cancel import cancel
from scheduler.claim import Claim, Claims
from scheduler.dead_letters import DeadLetters, NotDeadLetter
from scheduler.expiry import expire as expire_late
from scheduler.fair_share import line_of
from scheduler.finish import write
from scheduler.jobs import Request
from scheduler.maintenance import Maintenance
from scheduler.postpone import postpone
from scheduler.promotion import promote
from scheduler.rescue import Rescued, report_death, rescue
from scheduler.so_far import SoFar, dumps
from scheduler.submit import Submitter
from tests.integration import picture
from tests.integration.model import Model
from tests.integration.picture import PASSED_AT, PLACES, QUEUES
from tests.integration.test_claim import REQUEST
from tests.integration.test_finish_and_rescue import expire, success

TIERS = {"premium": "high", "batch": "low"}
WEIGHTS = {"default": 1.0, "acme": 1.0, "bob": 2.5}
WORKERS = {"fast-1": QUEUES, "fast-2": QUEUES, "slow": ("low",)}
MAX_DELIVERIES = 3
POLICY = Promotion(service_s=30, max_share=0.5)
MOST_WAITING = 6
LEASE_S = 86_400.0
"""So long that leases expire where a rule says so, and nowhere else."""

SETTINGS = settings(
    max_examples=150,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_redis_agrees_with_the_model_after_every_step(
    connection: Redis, tiers: TierTable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "scheduler")
    run_state_machine_as_test(
        lambda: Lives(connection, tiers),  # type: ignore[arg-type]  # it takes any callable
        settings=SETTINGS,
    )


TIER = st.sampled_from(sorted(TIERS))
ORDER = st.tuples(TIER, st.sampled_from(sorted(WEIGHTS)), st.sampled_from([1, 30, 300]))
"""A tier, a tenant, and the tokens that are asked for."""
WORKER = st.sampled_from(sorted(WORKERS))
COUNT = st.integers(1, 4)
JOB = (
    st.runner()
    .flatmap(lambda lives: st.sampled_from(lives.statuses()))
    .flatmap(lambda ids: st.sampled_from(ids))
)
"""A job, of each status as likely as of any other."""
DEAD = st.runner().flatmap(lambda lives: st.sampled_from(lives.model.of("failed")))
CLAIM = st.runner().flatmap(
    lambda lives: st.sampled_from(lives.held()) | st.sampled_from(list(lives.claims))
)
"""A claim that was ever granted, by its name; more often one that still holds its lease."""
CLAIMS = st.lists(CLAIM, min_size=1, max_size=4, unique=True)
REPEATED = st.lists(CLAIM, min_size=1, max_size=4)
"""Some may be named twice."""


class Lives(RuleBasedStateMachine):
    """Jobs in the hands of three workers, of which any may be thought dead and act all the same.

    Names of claims are drawn from all that there ever were, so that most rules have late ones too.
    """

    def __init__(self, connection: Redis, tiers: TierTable) -> None:
        super().__init__()
        connection.flushdb()
        self.connection, self.tiers = connection, tiers
        self.maintenance = Maintenance(connection, list(QUEUES), MAX_DELIVERIES, lease_s=30)
        self.ended = connection.pubsub()
        self.ended.subscribe(keys.ENDED)
        self.model = Model(MAX_DELIVERIES)
        self.claims: dict[str, Claim] = {}
        """Every claim that was ever granted, under a name that tells about it."""

    def teardown(self) -> None:
        self.ended.close()

    @initialize(orders=st.lists(ORDER, min_size=2, max_size=MOST_WAITING))
    def submit_first(self, orders: list[tuple[str, str, int]]) -> None:
        for order in orders:
            self.submit_one(*order)

    @precondition(lambda self: len(self.model.of("queued")) < MOST_WAITING)
    @rule(order=ORDER)
    def submit(self, order: tuple[str, str, int]) -> None:
        self.submit_one(*order)

    @precondition(lambda self: self.model.of("queued"))
    @rule(worker=WORKER, count=COUNT)
    def claim_as_an_empty_worker(self, worker: str, count: int) -> None:
        self.claim(worker, count, is_empty=True)

    @precondition(lambda self: self.model.of("queued") and self.model.leases)
    @rule(worker=WORKER, count=COUNT)
    def claim_beside_others(self, worker: str, count: int) -> None:
        self.claim(worker, count, is_empty=False)

    @precondition(lambda self: any(self.model.jobs[i].is_suspect for i in self.model.of("queued")))
    @rule(worker=WORKER, deaths=st.integers(1, 3))
    def claim_and_die(self, worker: str, deaths: int) -> None:
        for _ in range(deaths):
            self.die(self.claim(worker, 1, is_empty=True))

    @precondition(lambda self: self.model.leases)
    @rule(names=CLAIMS)
    def renew(self, names: list[str]) -> None:
        some = self.named(names)
        assert self.rights().renew(some) == [self.model.renew(c.execution_id) for c in some]

    @precondition(lambda self: self.model.leases)
    @rule(names=CLAIMS, num_tokens=st.integers(0, 2))
    def release(self, names: list[str], num_tokens: int) -> None:
        has = SoFar((4,) * num_tokens, "4" * num_tokens) if num_tokens else None
        some = [replace(claim, so_far=has) for claim in self.named(names)]
        kept = dumps(has, job_id="any")
        expected = self.model.release(dict.fromkeys(executions(some), kept))

        assert self.rights().release(some) == expected

    @precondition(lambda self: self.model.leases)
    @rule(names=REPEATED)
    def finish_twice(self, names: list[str]) -> None:
        some = self.named(names)
        for value in ("first", "second"):
            verdicts = write(self.connection, "w", [success(claim, value) for claim in some])
            assert verdicts == self.model.finish(executions(some))

    @precondition(lambda self: self.model.leases)
    @rule(name=CLAIM)
    def postpone(self, name: str) -> None:
        claim = self.claims[name]
        if self.model.jobs[claim.job.id].retries_left:
            ended_at = success(claim, None).ended_at
            verdict = postpone(self.connection, "w", claim, delay_s=LEASE_S, ended_at=ended_at)
            assert verdict == self.model.postpone(claim.execution_id)

    @precondition(lambda self: self.model.of("scheduled"))
    @rule()
    def maintain_once_a_retry_is_due(self) -> None:
        job_id = self.model.of("scheduled")[0]
        queue = self.model.jobs[job_id].queue
        self.connection.zadd(keys.scheduled(queue), {job_id: 1}, xx=True)
        self.let_pauses_pass()

        self.maintenance.upkeep()

        for name in QUEUES:
            self.model.rescue(name)
        for name in QUEUES:
            self.model.end_late(name)
        if self.model.jobs[job_id].status == "scheduled":
            self.model.come_due(job_id)

    @rule(job_id=JOB, deadline=st.sampled_from(["start_by", "finish_by"]))
    def let_pass(self, job_id: str, deadline: str) -> None:
        key = keys.deadlines(self.model.jobs[job_id].queue)
        fields = {deadline: PASSED_AT, "deadline_since": 1}
        self.connection.hset(f"rq:job:{job_id}", mapping={**fields})
        self.connection.zadd(key, {job_id: PASSED_AT}, lt=True)
        self.model.let_pass(job_id, deadline)

    @precondition(lambda self: self.model.waiting("low"))
    @rule(names=st.lists(JOB, min_size=1, max_size=4, unique=True))
    def promote(self, names: list[str]) -> None:
        some = {name: self.model.jobs[name] for name in names}
        for job_id in (i for i, job in some.items() if job.queue == "low" and not job.is_promoted):
            self.connection.zadd(keys.promotions("low"), {job_id: 1})

        promoted = promote(self.connection, "low", POLICY)

        self.model.promote("low", promoted, POLICY.max_share)

    @precondition(lambda self: any(job.is_late for job in self.model.jobs.values()))
    @rule(queue=st.sampled_from(QUEUES))
    def end_late_twice(self, queue: str) -> None:
        self.let_pauses_pass()
        ended = self.model.end_late(queue)

        first, second = (expire_late(self.connection, queue) for _ in range(2))

        assert sorted(first.expired) == sorted(ended)
        assert second.expired == []

    @precondition(lambda self: self.model.leases)
    @rule(names=CLAIMS)
    def let_expire(self, names: list[str]) -> None:
        for claim in self.named(names):
            if claim.execution_id in self.model.leases:
                expire(self.connection, claim)
                self.model.expire(claim.execution_id)

    @precondition(lambda self: any(lease.expired for lease in self.model.leases.values()))
    @rule(queue=st.sampled_from(QUEUES))
    def rescue_twice(self, queue: str) -> None:
        requeued, dead = self.model.rescue(queue)

        first, second = (
            rescue(self.connection, queue, max_deliveries=MAX_DELIVERIES) for _ in range(2)
        )

        assert (sorted(first.requeued), sorted(first.dead)) == (sorted(requeued), sorted(dead))
        assert second == Rescued([], [])

    @precondition(lambda self: self.model.leases)
    @rule(names=REPEATED)
    def report_death(self, names: list[str]) -> None:
        self.die(self.named(names))

    @precondition(lambda self: self.model.of("started", "scheduled"))
    @rule(job_id=JOB)
    def cancel(self, job_id: str) -> None:
        job = jobs.fetch(self.connection, job_id)
        assert cancel(self.connection, job) == self.model.cancel(job_id)

    @precondition(lambda self: self.model.of("failed"))
    @rule(job_id=DEAD | JOB)
    def replay(self, job_id: str) -> None:
        try:
            DeadLetters(self.connection, self.tiers).replay(job_id)
        except NotDeadLetter:
            assert self.model.jobs[job_id].status != "failed"
        else:
            assert self.model.replay(job_id, self.retries(job_id))

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        assert picture.read(self.connection) == self.model.picture()
        assert sorted(self.announcements()) == sorted(self.model.announced)
        assert self.unwatched() == []
        assert self.unheard() == []
        self.model.announced.clear()

    def let_pauses_pass(self) -> None:
        """Let late jobs that were looked at while they ran be looked at again."""
        for job_id in self.model.of("queued", "scheduled"):
            job = self.model.jobs[job_id]
            if job.is_late:
                self.connection.zadd(keys.deadlines(job.queue), {job_id: PASSED_AT}, lt=True)

    def unwatched(self) -> list[str]:
        """Return the jobs that have not ended and must, and that nobody would look at."""
        return [
            job_id
            for job_id in self.model.of("queued", "started", "scheduled")
            if self.connection.hexists(f"rq:job:{job_id}", "finish_by")
            and self.connection.zscore(keys.deadlines(self.model.jobs[job_id].queue), job_id)
            is None
        ]

    def unheard(self) -> list[str]:
        """Return the lines with jobs that no doorbell would ring for, or that RQ does not know."""
        known = self.connection.smembers("rq:queues")
        lines = [name for name, ids in self.model.lines.lists.items() if ids and "@" in name]
        return [
            line
            for line in lines
            if self.connection.llen(keys.bell(line.split("@")[0])) != 1
            or keys.queue(line).encode() not in known
        ]

    def announcements(self) -> Iterator[str]:
        """Yield the jobs that were said to have ended since the last time."""
        self.ended.ping()
        for message in self.ended.listen():
            if message["type"] == "pong":
                return
            if message["type"] == "message":
                yield from message["data"].decode().split()

    def submit_one(self, tier: str, tenant: str, tokens: int) -> None:
        job_id = f"{tier}-{len(self.model.jobs)}"
        weight, body = WEIGHTS[tenant], {**REQUEST["body"], "max_tokens": tokens}
        Submitter(self.connection, self.tiers).submit(
            Request(endpoint=REQUEST["endpoint"], body=body),
            tier=tier,
            tenant=tenant,
            weight=weight,
            job_id=job_id,
        )
        home = line_of(TIERS[tier], tenant)
        self.model.submit(job_id, TIERS[tier], self.retries(job_id), tokens, home, weight)

    def claim(self, worker: str, count: int, *, is_empty: bool) -> list[Claim]:
        rights = Claims(self.connection, worker, WORKERS[worker], LEASE_S)
        expected = self.model.lines.claim(WORKERS[worker], count, is_empty)

        taken = rights.take(count, is_empty=is_empty)

        assert ([claim.job.id for claim in taken], rights.num_open) == expected
        for claim in taken:
            job = self.model.jobs[claim.job.id]
            assert dumps(claim.so_far, job_id=claim.job.id) == job.so_far
            assert (claim.queue, claim.alone) == (job.queue, job.is_suspect)
            self.model.start(claim.execution_id, claim.job.id, worker)
            self.claims[f"{claim.job.id} by {worker} #{len(self.claims)}"] = claim
        return taken

    def die(self, claims: list[Claim]) -> None:
        requeued, dead = self.model.report_death(executions(claims))

        rescued = report_death(self.connection, claims, max_deliveries=MAX_DELIVERIES)

        assert sorted(job_id for part in rescued for job_id in part.requeued) == sorted(requeued)
        assert sorted(job_id for part in rescued for job_id in part.dead) == sorted(dead)

    def statuses(self) -> list[list[str]]:
        return [ids for status in PLACES if (ids := self.model.of(status))]

    def held(self) -> list[str]:
        leases = self.model.leases
        return [name for name, claim in self.claims.items() if claim.execution_id in leases]

    def named(self, names: list[str]) -> list[Claim]:
        return [self.claims[name] for name in names]

    def rights(self) -> Claims:
        return Claims(self.connection, "w", QUEUES, LEASE_S)

    def retries(self, job_id: str) -> int:
        return self.tiers.tiers[job_id.split("-")[0]].retry.max


def executions(claims: list[Claim]) -> list[str]:
    return [claim.execution_id for claim in claims]
