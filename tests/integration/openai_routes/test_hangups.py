"""Who hangs up has his job cancelled."""

from redis import Redis

from tests.conftest import until
from tests.integration.test_api_processes import serving
from tests.openai_sdk import CHAT, job, only_job, sdk, send

LONG = 4000
"""Tokens that take the simulated engine about 16 s."""


def test_a_client_that_stops_waiting_has_its_job_cancelled(
    redis_url: str, connection: Redis
) -> None:
    with serving(redis_url) as (_, port):
        client = send(port, CHAT)
        job_id = only_job(connection)
        client.close()

        until(lambda: job(connection, job_id)["status"] == "canceled")


def test_a_client_that_stops_reading_has_its_job_cancelled(port: int, redis: Redis) -> None:
    with sdk("sync", port) as ask:
        stream = ask(lambda c: c.chat.completions.create(**CHAT, max_tokens=LONG, stream=True))
        job_id = next(stream).id.removeprefix("chatcmpl-")

        stream.close()

    until(lambda: job(redis, job_id)["status"] in {"canceled", "stopped"})


def test_a_stream_whose_client_has_gone_before_its_begin_is_cancelled(
    redis_url: str, connection: Redis
) -> None:
    with serving(redis_url) as (_, port):
        client = send(port, {**CHAT, "stream": True})
        job_id = only_job(connection)
        client.close()

        until(lambda: job(connection, job_id)["status"] == "canceled")
