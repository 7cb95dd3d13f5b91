"""Service tiers: OpenAI's words, the tiers they mean, and the word for the tier that served."""

import pytest

from api.problems import Invalid
from api.service_tier import tier_of, word_of
from config.tiers import Tier, TierTable
from scheduler.tenants import ANYBODY, Tenant


@pytest.mark.parametrize(
    ("asked", "tier"),
    [
        (None, "standard"),
        ("auto", "standard"),
        ("default", "standard"),
        ("flex", "batch"),
        ("priority", "premium"),
    ],
)
def test_each_word_means_the_tier_that_has_it(tiers: TierTable, asked: str, tier: str) -> None:
    assert tier_of(asked, tiers, ANYBODY) == tier


@pytest.mark.parametrize("asked", [None, "auto"])
def test_auto_is_the_tenants_own_tier(tiers: TierTable, asked: str | None) -> None:
    assert tier_of(asked, tiers, Tenant("acme", default_tier="batch")) == "batch"


@pytest.mark.parametrize("asked", ["scale", "premium", "", 5, ["auto"], {}])
def test_any_other_word_is_refused_with_those_there_are(tiers: TierTable, asked: object) -> None:
    with pytest.raises(Invalid, match="auto, priority, default, flex") as refused:
        tier_of(asked, tiers, ANYBODY)

    assert refused.value.errors[0]["field"] == "service_tier"


def test_the_word_for_a_tier_is_its_first_that_is_not_auto(tiers: TierTable) -> None:
    assert [word_of(name, tiers) for name in tiers.tiers] == ["priority", "default", "flex"]


def test_a_tier_without_a_word_is_named_by_its_own_name(tiers: TierTable) -> None:
    silent = {**tiers.tiers, "night": Tier(queue="low", priority=300, service_tiers=["auto"])}

    assert word_of("night", tiers.model_copy(update={"tiers": silent})) == "night"
