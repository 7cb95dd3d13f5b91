"""No low job starts while a high one waits that could, whatever is late, urgent, suspect or dead.

python -m tests.integration.test_no_inversion 1000000    the same for as many claims
"""

import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from config import connections, embedded_redis
from config.settings import Settings
from config.tiers import Promotion, TierTable
from scheduler import keys
from scheduler.claim import Claim, Claims
from scheduler.deadlines import Deadlines
from scheduler.expiry import expire
from scheduler.fair_share import line_of
from scheduler.finish import write
from scheduler.promotion import promote
from scheduler.rescue import report_death
from scheduler.submit import Submission, Submitter
from tests.integration.test_claim import REQUEST
from tests.integration.test_finish_and_rescue import success

POLICY = Promotion(service_s=30, max_share=0.5)
LATE, URGENT, EASY = -5.0, 20.0, 86_400.0
TENANTS = ("default", "acme", "bob")
WEIGHTS = (6, 10, 10, 0.2, 2, 1)
"""Of what may happen: deaths are rare, for what was in flight then is claimed one by one."""
MOST_KEPT = 5_000
"""Claims after which the database is emptied."""


class Traffic:
    """Jobs that come, are claimed and end, as `draws` will have it."""

    def __init__(self, connection: Redis, tiers: TierTable, draws: random.Random) -> None:
        connection.flushdb()
        self.connection, self.draws = connection, draws
        self.submitter = Submitter(connection, tiers)
        self.rights = Claims(connection, "w", ["high", "low"], lease_s=3600)
        self.inflight: list[Claim] = []
        self.num_claims = self.num_low = 0

    def step(self) -> None:
        """Let one thing happen, and look whether a low job passed a high one."""
        acts: list[Callable[[], object]] = [self.submit, self.claim, self.end, self.die]
        acts += [lambda: promote(self.connection, "low", POLICY), self.expire]
        self.draws.choices(acts, weights=WEIGHTS)[0]()

    def submit(self) -> None:
        self.submitter.submit_many([self.submission() for _ in range(self.draws.randint(1, 12))])

    def submission(self) -> Submission:
        now, tier = time.time(), self.draws.choice(["premium", "standard", "batch"])
        field = self.draws.choice(["start_by", "finish_by"])
        within_s = self.draws.choices([LATE, URGENT, EASY], weights=[1, 2, 3])[0]
        deadlines = Deadlines(**{field: now + within_s}, since=now - 10)
        return Submission(REQUEST, tier, self.draws.choice(TENANTS), deadlines=deadlines)

    def claim(self) -> None:
        taken = self.rights.take(self.draws.randint(1, 18), is_empty=not self.inflight)
        self.inflight += taken
        self.num_claims += len(taken)
        low = [claim for claim in taken if claim.queue == "low"]
        self.num_low += len(low)
        assert not low or self.waiting_high() == []

    def waiting_high(self) -> list[bytes]:
        """Return the high jobs that wait and are not late."""
        lists = [keys.queue(line_of("high", tenant) or "high") for tenant in TENANTS]
        job_ids = [job_id for key in lists for job_id in self.connection.lrange(key, 0, -1)]
        waiting = []
        for job_id in job_ids:
            names = ("start_by", "finish_by")
            values = self.connection.hmget(f"rq:job:{job_id.decode()}", *names)
            deadlines = Deadlines.read(dict(zip(names, values, strict=True)))
            has_started = self.connection.hexists(f"rq:job:{job_id.decode()}", "attempts")
            until = deadlines.waits_until(has_started=has_started)
            if until is None or until > time.time():
                waiting.append(job_id)
        return waiting

    def end(self) -> None:
        ended, self.inflight = self.inflight, []
        write(self.connection, "w", [success(claim, "") for claim in ended])

    def die(self) -> None:
        dead, self.inflight = self.inflight, []
        report_death(self.connection, dead, max_deliveries=3)

    def expire(self) -> None:
        for queue in ("high", "low"):
            expire(self.connection, queue)


@given(seed=st.integers(0, 2**32))
@hypothesis_settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_no_low_job_starts_while_a_high_one_could(
    connection: Redis, tiers: TierTable, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    caplog.set_level(logging.CRITICAL, "scheduler")
    traffic = Traffic(connection, tiers, random.Random(seed))

    for _ in range(200):
        traffic.step()

    assert traffic.num_low > 0


def soak(num_claims: int, seed: int) -> None:
    """Go on for `num_claims` claims on a server of its own."""
    logging.disable()
    with tempfile.TemporaryDirectory() as directory, embedded_redis.running(Path(directory)) as url:
        tiers, num_done, num_low = Settings(engine="sim").tiers(), 0, 0
        with connections.commands(url) as connection:
            connection.config_set("appendfsync", "no")
            while num_done < num_claims:
                traffic = Traffic(connection, tiers, random.Random(f"{seed} {num_done}"))
                while traffic.num_claims < min(MOST_KEPT, num_claims - num_done):
                    traffic.step()
                num_done, num_low = num_done + traffic.num_claims, num_low + traffic.num_low
                sys.stdout.write(f"{num_done} claims, {num_low} low, none before a high one\n")
                sys.stdout.flush()


if __name__ == "__main__":
    soak(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
