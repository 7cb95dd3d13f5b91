"""Service tiers: OpenAI's words for the tiers of the SLA table.

    absent, null, auto    the tenant's own tier
    any other             the tier whose `service_tiers` has it; 400 if none has

The answer names the tier that served by the first of its words that is not `auto`, or by its own
name if it has none.
"""

from api.problems import Invalid
from config.tiers import TierTable
from scheduler.tenants import Tenant

AUTO = "auto"


def tier_of(asked: object, tiers: TierTable, tenant: Tenant) -> str:
    """Return the tier that the request's `service_tier` means for `tenant`."""
    if asked is None or asked == AUTO:
        return tenant.tier_by_default(tiers)
    tier = tiers.tier_for(asked) if isinstance(asked, str) else None
    if tier is None:
        text = f"there is no such service tier; use one of {', '.join(_words(tiers))}"
        raise Invalid([{"field": "service_tier", "message": text}])
    return tier


def word_of(tier: str, tiers: TierTable) -> str:
    """Return OpenAI's word for `tier`."""
    policy = tiers.tiers.get(tier)
    words = [word for word in policy.service_tiers if word != AUTO] if policy else []
    return words[0] if words else tier


def _words(tiers: TierTable) -> list[str]:
    named = [word for tier in tiers.tiers.values() for word in tier.service_tiers]
    return list(dict.fromkeys([AUTO, *named]))
