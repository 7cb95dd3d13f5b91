"""The Prefer header says how long a client is willing to wait."""

import pytest

from api import prefer
from api.problems import BadPreference


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("respond-async", None),
        ("wait=0", 0),
        ("wait=10", 10),
        ("WAIT = 10", 10),
        ('wait="10"', 10),
        ("respond-async, wait=10", 10),
        ("wait=10; unknown=parameter", 10),
        ("wait=10, wait=20", 10),
        ("waiting=10", None),
        ("wait=31", 30),
        ("wait=999999999", 30),
    ],
)
def test_the_seconds_are_read_and_capped(header: str | None, seconds: int | None) -> None:
    assert prefer.wait_s(header, most_s=30) == seconds


@pytest.mark.parametrize(
    "header", ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "wait=9999999999", 'wait="1']
)
def test_a_wait_that_is_no_number_of_seconds_is_refused(header: str) -> None:
    with pytest.raises(BadPreference, match="whole number of seconds"):
        prefer.wait_s(header, most_s=30)
