"""Tenants at OpenAI's routes: keys, ceilings and own tiers; nobody sees another's responses."""

from collections.abc import Iterator

import openai
import pytest
from redis import Redis

from scheduler import models
from scheduler.models import ModelView
from tests.integration.customers import customer
from tests.integration.test_api_processes import serving
from tests.openai_sdk import CHAT, HELLO, MODEL, Sdk, sdk


@pytest.fixture
def server(redis_url: str) -> Iterator[int]:
    """The port of a server without a worker, where a request waits a second at most."""
    with serving(redis_url, SLALOM_MAX_WAIT_S="1") as (_, port):
        yield port


def key_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


def test_a_wrong_key_and_a_tier_above_the_ceiling_are_the_sdks_own_errors(
    server: int, connection: Redis
) -> None:
    acme = customer(connection, "acme", ceiling="standard")

    with sdk("sync", server) as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger(lambda c: c.chat.completions.create(**CHAT))
    with (
        sdk("sync", server, api_key=key_of(acme)) as ask,
        pytest.raises(openai.PermissionDeniedError) as above,
    ):
        ask(lambda c: c.chat.completions.create(**CHAT, service_tier="priority"))

    assert unknown.value.code == "invalid_api_key"
    assert above.value.code == "tier_not_allowed"
    assert above.value.response.headers["content-type"] == "application/json"


def test_auto_is_the_tenants_own_tier_and_its_models_are_those_it_may_use(
    server: int, connection: Redis
) -> None:
    for name in (MODEL, "secret"):
        models.announce(connection, ModelView(name, 256, "sim", 0.0))
    acme = customer(connection, "acme", default_tier="batch", models=(MODEL,))

    with sdk("sync", server, api_key=key_of(acme)) as ask:
        made = ask(lambda c: c.responses.create(model=MODEL, input="1", background=True))
        listed = [model.id for model in ask(lambda c: c.models.list())]
        with pytest.raises(openai.PermissionDeniedError):
            ask(lambda c: c.chat.completions.create(model="secret", messages=HELLO))

    assert made.service_tier == "flex"
    assert listed == [MODEL]


def test_the_response_of_another_tenant_is_not_there(server: int, connection: Redis) -> None:
    acme, other = customer(connection, "acme"), customer(connection, "other")

    def is_missing(ask: Sdk, name: str) -> None:
        for call in (
            lambda c: c.responses.retrieve(name),
            lambda c: c.responses.cancel(name),
            lambda c: c.responses.delete(name),
            lambda c: c.responses.create(model=MODEL, input="1", previous_response_id=name),
        ):
            with pytest.raises(openai.NotFoundError) as error:
                ask(call)
            assert error.value.code == "response_not_found"

    with (
        sdk("sync", server, api_key=key_of(acme)) as mine,
        sdk("sync", server, api_key=key_of(other)) as theirs,
    ):
        made = mine(lambda c: c.responses.create(model=MODEL, input="1", background=True))
        is_missing(theirs, made.id)

        assert mine(lambda c: c.responses.retrieve(made.id)).status == "queued"
        assert mine(lambda c: c.responses.cancel(made.id)).status == "cancelled"
        assert mine(lambda c: c.responses.delete(made.id)) is None
        is_missing(mine, made.id)
    assert not [
        key for key in connection.keys("*") if made.id.removeprefix("resp_").encode() in key
    ]
