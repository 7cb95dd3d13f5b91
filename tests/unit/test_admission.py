"""Admission: how many jobs of each class a worker holds, gated and not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.admission import WINDOW_S, Admission, Endings

NOW = 1000.0


def admission(**fields: Any) -> Admission:
    options: dict[str, Any] = {
        "seats": 16,
        "queues": ["high", "low"],
        "high_queue": "high",
        "is_gated": True,
    }
    return Admission(**{**options, **fields})


@pytest.mark.parametrize(
    ("ended_at", "now", "num"),
    [
        ([], 0.0, 0),
        ([10.0, 10.1, 10.2], 10.3, 3),
        ([10.0, 10.1, 10.2], 11.5, 3),
        ([10.0, 10.1, 11.2], 11.5, 2),
        ([10.0, 11.2, 11.3, 11.4], 11.5, 3),
        ([10.0, 10.1, 10.2], 12.5, 0),
        ([10.0, 10.1, 10.2], 100.0, 0),
    ],
    ids=["none", "so far", "of the last window", "not both", "if more", "too old", "long ago"],
)
def test_endings_are_counted_over_a_second(ended_at: list[float], now: float, num: int) -> None:
    endings = Endings()
    for at in ended_at:
        endings.add(at)

    assert endings.num(now) == num


@given(st.lists(st.floats(0, 10), max_size=60), st.floats(0, 12))
def test_endings_are_never_more_than_those_of_the_last_two_windows(
    ended_at: list[float], now: float
) -> None:
    endings, past = Endings(), sorted(at for at in ended_at if at <= now)
    for at in past:
        endings.add(at)

    latest = [at for at in past if now - at < 2 * WINDOW_S]
    assert endings.num(now) <= len(latest)


@pytest.mark.parametrize(
    ("seats", "ended", "buffered"),
    [
        (16, 0, 2),
        (16, 2, 2),
        (16, 20, 20),
        (16, 32, 32),
        (16, 500, 32),
        (1, 0, 1),
        (1, 500, 2),
        (256, 0, 32),
        (256, 500, 500),
    ],
)
def test_the_buffer_follows_the_endings_between_an_eighth_and_twice_the_seats(
    seats: int, ended: int, buffered: int
) -> None:
    held = admission(seats=seats)
    for _ in range(ended):
        held.endings.add(NOW)

    assert held.buffer(NOW) == buffered
    assert held.most(NOW) == seats + buffered
    assert held.rooms(0, 0, NOW) == [seats + buffered] * 2


@pytest.mark.parametrize(
    ("fields", "num_high", "num_low", "rooms"),
    [
        ({}, 0, 0, [18, 18]),
        ({}, 5, 18, [13, 0]),
        ({}, 0, 300, [18, 0]),
        ({}, 18, 0, [0, 0]),
        ({}, 17, 0, [1, 18]),
        ({"reserve": 4}, 0, 0, [18, 18]),
        ({"is_gated": False}, 0, 0, [18, 16]),
        ({"is_gated": False, "reserve": 4}, 0, 0, [18, 12]),
        ({"is_gated": False, "reserve": 4}, 3, 12, [15, 0]),
        ({"is_gated": False, "reserve": 16}, 0, 0, [18, 1]),
        ({"is_gated": False, "reserve": 99}, 0, 1, [18, 0]),
        ({"fixed": 3}, 0, 2, [3, 1]),
        ({"fixed": 3}, 3, 0, [0, 0]),
        ({"fixed": 3, "is_gated": False, "reserve": 4}, 0, 0, [3, 3]),
        ({"fixed": 15, "is_gated": False, "reserve": 4}, 0, 0, [15, 12]),
        ({"queues": ["low"]}, 0, 0, [18]),
        ({"queues": ["low"], "is_gated": False, "reserve": 4}, 0, 0, [18]),
        ({"queues": ["low"], "is_gated": False, "reserve": 4}, 0, 18, [0]),
        ({"queues": ["one"], "high_queue": None, "is_gated": False}, 0, 5, [13]),
        ({"queues": ["high", "low", "idle"]}, 0, 5, [18, 13, 13]),
        ({"queues": ["high", "low", "idle"]}, 0, 18, [18, 0, 0]),
        ({"queues": ["low", "high"]}, 0, 18, [0, 0]),
    ],
)
def test_each_class_has_room_of_its_own_and_none_behind_a_full_queue(
    fields: dict[str, object], num_high: int, num_low: int, rooms: list[int]
) -> None:
    assert admission(**fields).rooms(num_high, num_low, NOW) == rooms


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.booleans(),
    st.integers(0, 400),
    st.integers(0, 400),
    st.integers(0, 400),
)
def test_low_jobs_never_take_from_the_room_of_high_ones(
    seats: int, reserve: int, is_gated: bool, ended: int, num_high: int, num_low: int
) -> None:
    held = admission(seats=seats, reserve=reserve, is_gated=is_gated)
    for _ in range(ended):
        held.endings.add(NOW)

    high, low = held.rooms(num_high, num_low, NOW)

    assert high == held.rooms(num_high, 0, NOW)[0] >= seats - num_high
    assert low == 0 or high > 0
    assert is_gated or num_low + low <= max(num_low, seats - reserve, 1)
    assert held.refill(NOW) >= 1
