"""Scores are kept a few of each report, and the share that a p90 takes follows what was late."""

import pytest
from redis import Redis

from scheduler import keys, scores
from scheduler.scores import LEARNING, LEAST, MOST, MOST_SCORES, P90, Scored


def reported(num: int, late: tuple[int, int]) -> Scored:
    return Scored([(float(n), -float(n)) for n in range(num)], late)


def test_of_a_report_some_scores_are_kept_in_order(connection: Redis) -> None:
    scores.publish(connection, {"low": reported(7, (0, 0))})
    few = scores.read(connection, ["low"])["low"]
    scores.publish(connection, {"low": reported(1000, (0, 0))})
    many = scores.read(connection, ["low"])["low"]

    assert few.start == [0, 1, 2, 3, 4, 5, 6]
    assert few.finish == [-6, -5, -4, -3, -2, -1, 0]
    assert 7 + MOST_SCORES / 2 < len(many.start) <= 7 + MOST_SCORES


def test_a_queue_of_which_nothing_is_known_has_the_plain_p90(connection: Redis) -> None:
    found = scores.read(connection, ["high", "low"])

    assert list(found) == ["high", "low"]
    assert (found["low"].start_p90, found["low"].finish_p90) == (P90, P90)


def test_each_late_job_moves_its_share_up_and_each_other_one_down(connection: Redis) -> None:
    scores.publish(connection, {"low": reported(100, (10, 30))})
    scores.publish(connection, {"low": reported(100, (10, 0))})

    found = scores.read(connection, ["low"])["low"]
    assert found.start_p90 == pytest.approx(P90)
    assert found.finish_p90 == pytest.approx(P90 + LEARNING * (20 - 10))


def test_an_hour_in_which_all_are_late_is_soon_unlearnt(connection: Redis) -> None:
    scores.publish(connection, {"low": reported(5000, (5000, 0))})
    worst = scores.read(connection, ["low"])["low"]
    scores.publish(connection, {"low": reported(1000, (0, 1000))})

    after = scores.read(connection, ["low"])["low"]
    assert (worst.start_p90, worst.finish_p90) == (MOST, LEAST)
    assert after.start_p90 == pytest.approx(MOST - LEARNING * 100)
    assert float(connection.hget(keys.p90("low"), "finish")) == MOST
