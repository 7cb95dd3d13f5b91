"""Lines that take turns get work by weight, and whoever comes waits for a job of each other line.

The turns are the plain-Python ones that `tests/integration/test_model` holds the scripts to.
"""

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fair_share import Rival, line_of, passed_by
from tests.integration.turns import Turns

QUEUE = "low"
WEIGHTS = {"low@a": 1.0, "low@b": 3.0, "low@c": 0.25, QUEUE: 1.0, "low@new": 1.0}
SUBMIT = st.tuples(st.sampled_from(sorted(WEIGHTS)[:-1]), st.lists(st.integers(1, 500), max_size=8))
LIFE = st.lists(SUBMIT | st.integers(1, 6), max_size=30)
"""Jobs of these sizes come to a line; so many are claimed."""


@dataclass
class Service:
    """A queue that is served one job at a time."""

    lists: dict[str, list[int]] = field(default_factory=lambda: {line: [] for line in WEIGHTS})
    claimed: list[tuple[str, int, set[str]]] = field(default_factory=list)
    """Line, size, and the lines that had jobs just before."""

    def __post_init__(self) -> None:
        self.turns = Turns(QUEUE, self.lists)

    def submit(self, line: str, sizes: list[int]) -> None:
        self.lists[line] += sizes
        if sizes and line != QUEUE:
            self.turns.seat(line, WEIGHTS[line])

    def claim(self) -> str | None:
        if self.turns.turns and self.lists[QUEUE]:
            self.turns.seat(QUEUE)
        busy = {line for line, sizes in self.lists.items() if sizes}
        line = self.turns.next()
        if line is not None:
            size = self.lists[line].pop(0)
            self.turns.charge(line, size)
            self.claimed.append((line, size, busy))
        return line


def live(life: list[tuple[str, list[int]] | int]) -> Service:
    service = Service()
    for event in life:
        if isinstance(event, tuple):
            service.submit(*event)
        else:
            for _ in range(event):
                service.claim()
    return service


@given(LIFE)
def test_while_two_lines_have_jobs_their_shares_differ_by_no_more_than_a_job_of_each(
    life: list[tuple[str, list[int]] | int],
) -> None:
    service = live(life)
    largest = {
        line: max((size for name, size, _ in service.claimed if name == line), default=0)
        for line in WEIGHTS
    }

    for one, other in itertools.combinations(WEIGHTS, 2):
        bound = largest[one] / WEIGHTS[one] + largest[other] / WEIGHTS[other]
        got = {one: 0.0, other: 0.0}
        seen = [0.0]
        for line, size, busy in service.claimed:
            if not {one, other} <= busy:
                got, seen = {one: 0.0, other: 0.0}, [0.0]
                continue
            if line in got:
                got[line] += size / WEIGHTS[line]
            seen.append(got[one] - got[other])
            assert max(seen) - min(seen) <= bound + 1e-6


@given(LIFE, st.lists(SUBMIT, max_size=4))
def test_a_line_that_comes_waits_for_one_job_of_each_other_line_at_most(
    life: list[tuple[str, list[int]] | int], others: list[tuple[str, list[int]]]
) -> None:
    service = live([*life, *others])

    service.submit("low@new", [1])
    before = list(itertools.takewhile(lambda line: line != "low@new", iter(service.claim, None)))

    assert len(before) == len(set(before))


@given(LIFE)
def test_no_line_is_served_that_has_no_jobs_and_none_waits_while_others_are_served_in_vain(
    life: list[tuple[str, list[int]] | int],
) -> None:
    service = live(life)
    waiting = sum(map(len, service.lists.values()))

    assert len(list(iter(service.claim, None))) == waiting
    assert not any(service.lists.values())
    assert service.turns.turns == service.turns.weights == {}


def test_leaving_and_coming_again_earns_nothing() -> None:
    service = Service()
    service.submit("low@a", [10] * 100)
    service.submit("low@b", [300])
    got = {"low@a": 0, "low@b": 0}

    while sum(got.values()) < 900:
        line = service.claim()
        assert line is not None
        got[line] += service.claimed[-1][1]
        if line == "low@b":  # always back at once, with one more
            service.submit("low@b", [300])

    assert abs(got["low@b"] / 3 - got["low@a"]) <= 100 + 10


@pytest.mark.parametrize(
    ("rival", "until", "jobs"),
    [
        (Rival(5, 1.0, 100.0, 10.0), 90.0, 0),
        (Rival(5, 1.0, 100.0, 10.0), 100.0, 0),
        (Rival(5, 1.0, 100.0, 10.0), 101.0, 1),
        (Rival(5, 1.0, 100.0, 10.0), 110.0, 1),
        (Rival(5, 3.0, 100.0, 10.0), 110.0, 3),
        (Rival(5, 1.0, 100.0, 10.0), 1000.0, 5),
        (Rival(5, 1.0, 100.0), 120.0, 4),
    ],
)
def test_a_rival_gets_a_job_whenever_its_turn_is_before_ours(
    rival: Rival, until: float, jobs: int
) -> None:
    mean = rival.mean_work or 5.0

    assert passed_by([rival, rival], until, 5.0) == (2 * jobs, 2 * jobs * mean)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.01, 100))
def test_the_later_a_turn_the_more_rivals_get(early: float, span: float, weight: float) -> None:
    rivals = [Rival(10**9, weight, early / 2)]

    first, second = (passed_by(rivals, until, 10.0)[0] for until in (early, early + span))

    assert first <= second
    assert second - first <= math.ceil(span * weight / 10) + 1


def test_the_jobs_of_the_default_tenant_wait_in_the_queues_own_list() -> None:
    assert line_of("low", "default") == ""
    assert line_of("low", "acme") == "low@acme"
