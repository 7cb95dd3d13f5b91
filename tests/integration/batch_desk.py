"""Fixtures for batches: a desk that makes them, and a worker that answers their lines."""

import pytest
from redis import Redis

from config.tiers import TierTable
from scheduler import batch_advance
from scheduler.batch_advance import Means
from scheduler.submit import Submitter
from tests.batch_life import Desk, QuickWorker


@pytest.fixture
def means(connection: Redis, submitter: Submitter, tiers: TierTable) -> Means:
    return Means(
        connection,
        submitter,
        tiers,
        "adder",
        ahead=50,
        max_lines=5_000,
        max_line_bytes=2_000,
        record_ttl_s=86_400,
    )


@pytest.fixture
def desk(connection: Redis, means: Means) -> Desk:
    return Desk(connection, means)


@pytest.fixture
def quick(connection: Redis) -> QuickWorker:
    return QuickWorker(connection)


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are done by hand hear no news: let each look at every open job."""
    monkeypatch.setattr(batch_advance, "LOOK_EVERY_S", 0.0)
