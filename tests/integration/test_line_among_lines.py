"""A job's position counts what the lines of other tenants get before it."""

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from config.tiers import TierTable
from scheduler import line
from scheduler.claim import Claims
from scheduler.estimator import Estimator
from scheduler.submit import Submitter
from scheduler.tenants import Tenant
from tests.integration.test_claim import claims_of, ids
from tests.integration.test_fair_share import QUEUES, SHORT, request, submit, take_one

LIFE = st.lists(
    st.tuples(st.sampled_from(["default", "acme", "bob", "zoe"]), st.integers(1, 5)), max_size=8
)


@given(LIFE, st.integers(0, 12), LIFE)
@hypothesis_settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_a_position_says_how_many_are_claimed_before_but_for_one_of_each_other_line(
    connection: Redis,
    submitter: Submitter,
    first: list[tuple[str, int]],
    num_taken: int,
    then: list[tuple[str, int]],
) -> None:
    connection.flushdb()
    weights = {"default": 1.0, "acme": 1.0, "bob": 3.0, "zoe": 0.5}

    def come(life: list[tuple[str, int]]) -> list[str]:
        come = [submit(submitter, who, count, weight=weights[who]) for who, count in life]
        return [job_id for some in come for job_id in some]

    submitted = come(first)
    claims = Claims(connection, "w", ["low"], lease_s=30)
    gone = ids(claims.take(num_taken)) if num_taken else []
    submitted += come(then)

    looks = {
        job_id: line.look(connection, QUEUES, "low", job_id)
        for job_id in submitted
        if job_id not in gone
    }
    order = ids([take_one(claims) for _ in looks])

    assert sorted(order) == sorted(looks)
    for job_id, seen in looks.items():
        assert seen.position is not None
        assert abs(seen.position - order.index(job_id)) <= len(seen.rivals)
        assert seen.work_ahead(1.0) == SHORT * seen.position


def test_one_that_is_about_to_come_is_told_of_its_own_line(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    submit(submitter, "acme", 50)
    claims_of(connection).take(5)

    light = line.look(connection, QUEUES, "low", joins="low@bob")
    same = line.look(connection, QUEUES, "low", joins="low@acme")
    nobody = line.look(connection, QUEUES, "low")

    assert (light.position, same.position, nobody.position) == (0, 45, 0)
    assert light.queues[1].waiting == 45
    high = line.look(connection, QUEUES, "high")
    assert high.queues[1].waiting == 45
    estimator = Estimator(connection, tiers)
    lines = [estimator.look("low", Tenant(name)) for name in ("bob", "acme")]
    told = [estimator.before(request(5), "batch", line) for line in lines]
    assert [outlook.position for outlook in told] == [0, 45]


def test_jobs_in_lines_of_a_higher_queue_stand_before_a_low_one(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "acme", 4, tier="premium", tokens=50)
    submit(submitter, "default", 1, tier="premium", tokens=20)

    seen = line.look(connection, QUEUES, "low")

    assert seen.position == 5
    assert seen.work_ahead(1.0) == 4 * 50 + 20
