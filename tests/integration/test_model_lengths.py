"""What models take is read once a second, and of one that is not known yet at once."""

import pytest
from redis import Redis

from scheduler import models
from scheduler.models import Lengths, ModelView


def announce(connection: Redis, name: str, length: int) -> None:
    models.announce(connection, ModelView(name, length, "sim", 0.0))


def test_a_model_is_known_as_soon_as_it_is_announced(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "FRESH_S", 3600.0)
    lengths = Lengths(connection)
    announce(connection, "first", 100)
    before = lengths.of("second")

    announce(connection, "second", 200)

    assert before == {"first": 100}
    assert lengths.of("second") == {"first": 100, "second": 200}


@pytest.mark.parametrize(("fresh_s", "seen"), [(3600.0, 100), (0.0, 200)])
def test_what_is_known_is_read_again_when_it_is_no_longer_fresh(
    connection: Redis, monkeypatch: pytest.MonkeyPatch, fresh_s: float, seen: int
) -> None:
    monkeypatch.setattr(models, "FRESH_S", fresh_s)
    lengths = Lengths(connection)
    announce(connection, "adder", 100)
    lengths.of("adder")

    announce(connection, "adder", 200)

    assert lengths.of("adder") == {"adder": seen}
