"""Limits: no minute lets in more than it may, whoever asks at the same time."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.job import Job

from scheduler import keys
from scheduler.jobs import Request
from scheduler.limits import Charge, Charged, Hit, Usage, admit, give_back, usage
from scheduler.submit import Submitter
from scheduler.tenants import UNLIMITED, TierLimits
from tests.integration.test_claim import REQUEST

TENANT, TIER = "acme", "standard"
START = 1_800_000_000.0
PAUSES = [0.0, 0.25, 0.5, 1.0, 7.5, 30.0, 59.0, 61.0, 200.0]


def charge(job_id: str, tokens: int = 10) -> Charge:
    return Charge(TENANT, TIER, job_id, tokens)


def of(connection: Redis) -> Usage:
    return usage(connection, TENANT, TIER)


def accept(submitter: Submitter, job_id: str, tokens: int = 10, request: Request = REQUEST) -> Job:
    """Charge a job and queue it, as the intake does."""
    paid = charge(job_id, tokens)
    assert isinstance(admit(submitter.connection, paid, UNLIMITED), Charged)
    return submitter.submit(request, tier=TIER, tenant=TENANT, job_id=job_id, account=paid.account)


class Minute:
    """What a minute lets in, in plain Python: a second counts until all of it is a minute ago."""

    def __init__(self, most_requests: int | None, most_tokens: int | None) -> None:
        self._most = (most_requests, most_tokens)
        self.let_in: list[tuple[float, int]] = []

    def used(self, now: float) -> tuple[int, int]:
        counted = [tokens for at, tokens in self.let_in if int(at) >= int(now) - 60]
        return len(counted), sum(counted)

    def says_no(self, now: float, tokens: int) -> str | None:
        """Return the limit that says no."""
        requests, of_tokens = self.used(now)
        if self._most[0] is not None and requests + 1 > self._most[0]:
            return "requests_per_min"
        if self._most[1] is not None and of_tokens + tokens > self._most[1]:
            return "tokens_per_min"
        return None

    def ask(self, now: float, tokens: int) -> str | None:
        """Let it in, or return the limit that says no."""
        limit = self.says_no(now, tokens)
        if limit is None:
            self.let_in.append((now, tokens))
        return limit


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    most=st.tuples(st.none() | st.integers(1, 8), st.none() | st.integers(1, 60)),
    asked=st.lists(
        st.tuples(st.sampled_from(PAUSES), st.integers(1, 25)),
        max_size=40,
    ),
)
def test_a_minute_lets_in_what_the_model_says_and_never_more_than_the_limit(
    connection: Redis, most: tuple[int | None, int | None], asked: list[tuple[float, int]]
) -> None:
    connection.flushdb()
    model, now = Minute(*most), START
    allowed = TierLimits(requests_per_min=most[0], tokens_per_min=most[1])

    for number, (pause_s, tokens) in enumerate(asked):
        now += pause_s
        outcome = admit(connection, charge(f"job{number}", tokens), allowed, now=now)

        assert (outcome.limit if isinstance(outcome, Hit) else None) == model.ask(now, tokens)
        assert (outcome.usage.requests, outcome.usage.tokens) == model.used(now)
        if isinstance(outcome, Hit) and outcome.wait_s is not None:
            assert model.says_no(now + outcome.wait_s, tokens) != outcome.limit
            assert model.says_no(now + outcome.wait_s - 0.125, tokens) == outcome.limit
    for at, _ in model.let_in:
        within = [tokens for other, tokens in model.let_in if at <= other < at + 60]
        assert most[0] is None or len(within) <= most[0]
        assert most[1] is None or sum(within) <= most[1]


def test_a_limit_that_is_hit_says_when_it_would_let_the_job_in(connection: Redis) -> None:
    allowed = TierLimits(requests_per_min=2)
    admit(connection, charge("first"), allowed, now=START + 0.25)
    admit(connection, charge("second"), allowed, now=START + 10)

    hit = admit(connection, charge("third"), allowed, now=START + 20)

    assert isinstance(hit, Hit)
    assert (hit.limit, hit.most, hit.usage.of(hit.limit), hit.wait_s) == (
        "requests_per_min",
        2,
        2,
        41.0,
    )
    assert isinstance(admit(connection, charge("third"), allowed, now=START + 60.9), Hit)
    assert isinstance(admit(connection, charge("third"), allowed, now=START + 61), Charged)


def test_a_job_that_is_larger_than_its_limit_never_fits(connection: Redis) -> None:
    for name in ("tokens_per_min", "max_open_tokens"):
        hit = admit(connection, charge("job", 11), TierLimits(**{name: 10}))

        assert isinstance(hit, Hit)
        assert (hit.limit, hit.wait_s, hit.is_for_ever) == (name, None, True)
    assert of(connection) == Usage(0, 0, 0, 0, 0.0)


def test_any_number_at_once_let_in_exactly_what_the_limit_says(connection: Redis) -> None:
    allowed = TierLimits(requests_per_min=1000, max_open_jobs=50, max_open_tokens=100_000)

    with ThreadPoolExecutor(32) as threads:
        outcomes = list(
            threads.map(lambda n: admit(connection, charge(f"job{n}"), allowed), range(200))
        )

    assert sum(isinstance(outcome, Charged) for outcome in outcomes) == 50
    found = of(connection)
    assert (found.requests, found.tokens, found.open_jobs, found.open_tokens) == (50, 500, 50, 500)


def test_a_job_that_asks_again_because_the_reply_was_lost_is_charged_once(
    connection: Redis,
) -> None:
    allowed = TierLimits(requests_per_min=1, max_open_jobs=1)

    outcomes = [admit(connection, charge("same"), allowed) for _ in range(3)]

    assert all(isinstance(outcome, Charged) for outcome in outcomes)
    assert (of(connection).requests, of(connection).open_jobs) == (1, 1)


def test_what_a_minute_keeps_is_bounded(connection: Redis) -> None:
    key = keys.rate(TENANT, TIER)
    for second in range(300):
        admit(connection, charge(f"job{second}"), UNLIMITED, now=START + second)

    assert connection.hlen(key) == 61
    assert 0 < int(connection.ttl(key)) <= 120


def test_a_clock_that_jumps_back_locks_nobody_out_for_longer_than_a_minute(
    connection: Redis,
) -> None:
    allowed = TierLimits(requests_per_min=1)
    admit(connection, charge("future"), allowed, now=START + 3600)

    assert isinstance(admit(connection, charge("now"), allowed, now=START), Charged)


def test_a_damaged_minute_is_forgotten(connection: Redis) -> None:
    connection.hset(keys.rate(TENANT, TIER), mapping={"x": "1 1", str(int(START)): "many"})

    outcome = admit(connection, charge("job"), TierLimits(requests_per_min=1), now=START + 1)

    assert isinstance(outcome, Charged)
    assert connection.hlen(keys.rate(TENANT, TIER)) == 1


def test_a_charge_is_given_back_unless_the_job_stands_in_redis(
    connection: Redis, submitter: Submitter
) -> None:
    accept(submitter, "queued", 7)
    lost = charge("lost", 30)
    admit(connection, lost, UNLIMITED)

    given = [give_back(connection, paid) for paid in (charge("queued", 7), lost, lost)]

    assert given == [False, True, False]
    found = of(connection)
    assert (found.requests, found.tokens, found.open_jobs, found.open_tokens) == (1, 7, 1, 7)


def test_tenants_and_tiers_are_counted_apart(connection: Redis) -> None:
    admit(connection, charge("one"), UNLIMITED)
    admit(connection, Charge("other", TIER, "two", 1), UNLIMITED)
    admit(connection, Charge(TENANT, "batch", "three", 1), UNLIMITED)

    assert of(connection).open_jobs == of(connection).requests == 1
