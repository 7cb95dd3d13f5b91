"""A batch asks no more of its tenant than requests one by one may."""

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from scheduler.batch_allowance import TenantAllowance
from scheduler.batch_lines import LineFault
from scheduler.jobs import Request
from scheduler.submit import Submission
from tests.integration.customers import TIERS, customer, limited

BODY = {"model": "adder", "prompt": "1+1=", "max_tokens": 8}


def line(number: int = 1, tenant: str = "acme", tier: str = "batch", **body: Any) -> Submission:
    request = Request(endpoint="/v1/completions", body={**BODY, **body})
    return Submission(request, tier, tenant, job_id=f"line-{number}")


@pytest.fixture
def allowance(connection: Redis) -> TenantAllowance:
    return TenantAllowance(connection, TIERS)


def test_a_line_within_the_limits_is_charged_and_has_its_tenants_weight(
    allowance: TenantAllowance, connection: Redis
) -> None:
    customer(connection, "acme", weight=3.0)

    admitted = allowance.admit(line())

    assert isinstance(admitted, Submission)
    assert admitted.weight == 3.0
    assert admitted.account is not None
    assert admitted.account.split()[:2] == ["acme", "batch"]
    assert replace(admitted, weight=1.0, account=None) == line()


def test_a_line_past_a_limit_waits_and_is_charged_once_however_often_it_asks(
    allowance: TenantAllowance, connection: Redis
) -> None:
    customer(connection, "acme", limits=limited("batch", max_open_jobs=2))

    first = [allowance.admit(line(1)) for _ in range(3)]

    assert all(isinstance(admitted, Submission) for admitted in first)
    assert isinstance(allowance.admit(line(2)), Submission)
    assert allowance.admit(line(3)) is None


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (line(tier="premium"), "tier_forbidden"),
        (line(model="another"), "model_forbidden"),
        (line(max_tokens=5000), "over_limit"),
        (line(tenant="nobody"), "unknown_tenant"),
    ],
)
def test_a_line_that_may_never_come_fails_alone(
    allowance: TenantAllowance, connection: Redis, asked: Submission, code: str
) -> None:
    limits = limited("batch", max_open_tokens=1000)
    customer(connection, "acme", ceiling="standard", models=("adder",), limits=limits)

    outcome = allowance.admit(asked)

    assert isinstance(outcome, LineFault)
    assert outcome.code == code


def test_without_tenants_a_line_comes_as_it_is(allowance: TenantAllowance) -> None:
    assert allowance.admit(line(tenant="default")) == line(tenant="default")
