"""Tenants: which tiers and models one may ask for, and which records are none."""

import json
from typing import Any

import pytest

from config.settings import Settings
from config.tiers import TierTable
from scheduler.tenant_store import DamagedTenant, NotStored, check, read, shown
from scheduler.tenants import ANYBODY, RECORD, Tenant, TierLimits

TIERS = Settings().tiers()


@pytest.fixture
def tiers() -> TierTable:
    return TIERS


@pytest.mark.parametrize(
    ("ceiling", "usable"),
    [
        (None, ["premium", "standard", "batch"]),
        ("premium", ["premium", "standard", "batch"]),
        ("standard", ["standard", "batch"]),
        ("batch", ["batch"]),
    ],
)
def test_a_ceiling_leaves_its_own_tier_and_those_below(
    tiers: TierTable, ceiling: str | None, usable: list[str]
) -> None:
    tenant = Tenant("acme", ceiling=ceiling)

    assert tenant.usable(tiers) == usable
    assert [tier for tier in tiers.tiers if tenant.may_use(tier, tiers)] == usable


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, "standard"),
        ({"default_tier": "premium"}, "premium"),
        ({"default_tier": "batch", "ceiling": "standard"}, "batch"),
        ({"ceiling": "premium"}, "standard"),
        ({"ceiling": "batch"}, "batch"),
    ],
)
def test_a_request_that_names_no_tier_gets_the_tenants_own(
    tiers: TierTable, fields: dict[str, Any], tier: str
) -> None:
    tenant = Tenant("acme", **fields)

    assert tenant.tier_by_default(tiers) == tenant.view(tiers).default_tier == tier
    assert tenant.view(tiers).tiers == tiers.tiers


def test_models_are_all_or_those_that_are_named() -> None:
    assert Tenant("acme").may_ask("any")
    assert Tenant("acme", models=("a", "b")).may_ask("b")
    assert not Tenant("acme", models=("a", "b")).may_ask("c")


def test_a_tenant_sees_its_own_jobs_and_an_operator_all() -> None:
    acme, boss = Tenant("acme"), Tenant("boss", operator=True)

    assert acme.may_see("acme")
    assert not acme.may_see("other")
    assert not acme.may_see(None)
    assert boss.may_see("acme")
    assert boss.may_see(None)
    assert ANYBODY.may_see("acme")


def test_what_is_written_is_read_again(tiers: TierTable) -> None:
    limits = {"premium": TierLimits(requests_per_min=5), "batch": TierLimits(max_open_tokens=9)}
    tenant = Tenant("acme", 2.5, "batch", "premium", ("a",), limits, operator=True)

    assert read("acme", RECORD.dump_json(tenant), tiers) == tenant
    assert read("bare", '{"name": "bare"}', tiers) == Tenant("bare")
    assert shown(tenant)["limits"] == {
        "premium": {"requests_per_min": 5},
        "batch": {"max_open_tokens": 9},
    }


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("{", "the file"),
        ("[]", "the file"),
        ('{"name": "acme", "weight": 0}', "weight"),
        ('{"name": "acme", "weight": "2"}', "weight"),
        ('{"name": "acme", "weight": NaN}', "weight"),
        ('{"name": "other"}', "name"),
        ('{"name": "acme", "colour": "red"}', "colour"),
        ('{"name": "acme", "models": []}', "models"),
        ('{"name": "acme", "ceiling": "gold"}', "ceiling"),
        ('{"name": "acme", "limits": {"gold": {}}}', "limits.gold"),
        ('{"name": "acme", "limits": {"batch": {"requests_per_min": 0}}}', "requests_per_min"),
        ('{"name": "acme", "limits": {"batch": {"speed": 1}}}', "speed"),
        ('{"name": "acme", "default_tier": "premium", "ceiling": "batch"}', "default_tier"),
    ],
)
def test_a_damaged_record_is_named_with_its_fault_and_logged(
    tiers: TierTable, caplog: pytest.LogCaptureFixture, record: str, fault: str
) -> None:
    with pytest.raises(DamagedTenant, match=fault):
        read("acme", record, tiers)

    [line] = caplog.records
    assert line.levelname == "ERROR"
    assert vars(line)["tenant"] == "acme"


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a_b", "a:b", "ä", "a" * 64, "a\n"])
def test_names_are_short_and_plain(tiers: TierTable, name: str) -> None:
    with pytest.raises(NotStored):
        check(Tenant(name), tiers)
    with pytest.raises(DamagedTenant):
        read(name, json.dumps({"name": name}), tiers)


def test_nobody_may_have_the_name_of_whoever_calls_without_tenants(tiers: TierTable) -> None:
    check(Tenant("a" * 63), tiers)
    with pytest.raises(NotStored, match="another name"):
        check(Tenant(ANYBODY.name), tiers)
