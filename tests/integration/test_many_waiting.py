"""Hundreds of clients wait on one subscription: what they cost Redis does not grow with them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from api.hub import LOOKED_AT, RECHECK_S
from config import connections, embedded_redis
from tests.conftest import until
from tests.integration.test_api_processes import serving
from tests.integration.test_reload import CLIENTS, clients_that_wait, run

LOOKS = 4
ROOM = 20
"""Commands beside the looks: health checks of connections, and this test's own."""


@contextmanager
def waiting_alone(directory: Path) -> Iterator[Redis]:
    """Yield a server of which nothing but a web process with 200 waiting clients is a client."""
    with (
        embedded_redis.running(directory / "data") as url,
        connections.commands(url) as connection,
        serving(url) as (_, port),
        clients_that_wait(port, connection) as clients,
    ):
        yield connection
        run(connection, CLIENTS)
        assert {client.result()[0] for client in clients} == {200}


def calls(connection: Redis) -> dict[str, int]:
    """Return how often each command was called since the last reset."""
    stats: dict[str, Any] = connection.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


def test_all_who_wait_share_one_subscription_and_a_few_connections(tmp_path: Path) -> None:
    with waiting_alone(tmp_path) as connection:
        clients = connection.client_list()

        assert len([client for client in clients if client["sub"] != "0"]) == 1
        assert len(clients) <= connections.MAX_CONNECTIONS + 2


def test_redis_is_asked_for_a_few_jobs_a_second_however_many_wait(tmp_path: Path) -> None:
    with waiting_alone(tmp_path) as connection:
        connection.config_resetstat()
        begun = time.monotonic()

        until(lambda: calls(connection).get("hget", 0) >= LOOKS * LOOKED_AT)

        seen = calls(connection)
        seconds = time.monotonic() - begun
        asked = sum(seen.values()) - seen.get("info", 0)
        assert asked <= (seconds / RECHECK_S + 1) * LOOKED_AT + ROOM
