"""Tenancy: what a tenant may ask for, and how much of it, before its order becomes a job.

403 where the tier is above the tenant's ceiling or the model is not one of its own; 429 where a
limit is reached, with the limit, its value, what counts against it, and when to come back. What
was charged for an order that then could not be queued is given back. In a request, the state of the
limits also stands in OpenAI's headers, in refusals too:

    x-ratelimit-limit-requests, -tokens       of a minute; only where there is such a limit
    x-ratelimit-remaining-requests, -tokens
    x-ratelimit-reset-requests, -tokens       until the minute is empty: 59.8s
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, g, has_request_context
from redis import Redis

from api.order import Order
from api.problems import LimitReached, ModelForbidden, OverLimit, TierForbidden
from config.connections import UNAVAILABLE
from config.tiers import TierTable
from scheduler import limits
from scheduler.admission import Admitted
from scheduler.charge import tokens_of
from scheduler.limits import Charge, Hit, Usage
from scheduler.tenants import ANYBODY, Tenant, TierLimits
from scheduler.work import UNKNOWN_OUTPUT

logger = logging.getLogger(__name__)

UNKNOWN_WAIT_S = 5
"""When to come back for an open job's place: nobody knows when one ends."""
_UNITS = {
    "requests_per_min": "requests in a minute",
    "tokens_per_min": "tokens in a minute",
    "max_open_jobs": "open jobs",
    "max_open_tokens": "tokens of open jobs",
}


def register(app: Flask) -> None:
    """Add the state of the limits to the answers of `app`."""
    app.after_request(_with_limits)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Holds orders to what their tenants may do."""

    connection: Redis
    tiers: TierTable

    def permit(self, order: Order, tenant: Tenant) -> None:
        """Raise TierForbidden for a tier, or a fallback, above the tenant's ceiling."""
        for tier in (order.tier, order.fallback_tier):
            if tier is not None and not tenant.may_use(tier, self.tiers):
                usable = tenant.usable(self.tiers)
                text = f"tier {tier} is above your ceiling; use one of {', '.join(usable)}"
                raise TierForbidden(text, tier=tier, allowed_tiers=usable)

    def permit_model(self, model: str, tenant: Tenant) -> None:
        """Raise ModelForbidden for a model that is not the tenant's."""
        if not tenant.may_ask(model):
            allowed = list(tenant.models or ())
            text = f"you may not use this model; name one of {', '.join(allowed)}"
            raise ModelForbidden(text, allowed_models=allowed)

    def charge(
        self,
        order: Order,
        tenant: Tenant,
        admitted: Admitted,
        *,
        job_id: str,
        prompt_tokens: int | None,
    ) -> Charge | None:
        """Return what the job was charged, None where nobody counts; LimitReached, OverLimit."""
        if tenant is ANYBODY:
            return None
        mean = admitted.outlook.size.output if order.max_tokens is None else UNKNOWN_OUTPUT
        tokens = tokens_of(order.request, prompt_tokens, mean)
        charge = Charge(tenant.name, admitted.tier, job_id, tokens)
        allowed = tenant.limits_in(admitted.tier)
        outcome = limits.admit(self.connection, charge, allowed)
        _note(allowed, outcome.usage)
        if isinstance(outcome, Hit):
            extra = {"event": "limit.reached", "tenant": tenant.name, "tier": admitted.tier}
            logger.info("limit reached", extra={**extra, "limit": outcome.limit})
            raise _refusal(charge, outcome)
        return charge

    def give_back(self, charge: Charge | None) -> None:
        """Take back a charge; where Redis is away, the sweep of open jobs does it later."""
        if charge is None:
            return
        try:
            limits.give_back(self.connection, charge)
        except UNAVAILABLE as error:
            extra = {"event": "charge.kept", "job_id": charge.job_id, "error": error}
            logger.warning("a charge was not given back", extra=extra)


def _refusal(charge: Charge, hit: Hit) -> LimitReached | OverLimit:
    unit, used = _UNITS[hit.limit], hit.usage.of(hit.limit)
    members: dict[str, Any] = {
        "tier": charge.tier,
        "limit": hit.limit,
        "limit_value": hit.most,
        "used": used,
        "asked": hit.cost,
    }
    if hit.is_for_ever:
        text = f"the job alone is {hit.cost} {unit}, and {hit.limit} of tier {charge.tier} is "
        return OverLimit(f"{text}{hit.most}; ask for less in one job", **members)
    wait_s = UNKNOWN_WAIT_S if hit.wait_s is None else max(1, math.ceil(hit.wait_s))
    text = (
        f"{hit.limit} of tier {charge.tier} is {hit.most}: {used} {unit} count, and the job is "
        f"{hit.cost} more; come back in {wait_s} s"
    )
    return LimitReached(text, retry_after_s=wait_s, **members)


def _note(allowed: TierLimits, usage: Usage) -> None:
    """Keep the state of the limits for the answer to the current request, if there is one."""
    if has_request_context():
        g.limits = (allowed, usage)


def _with_limits(response: Response) -> Response:
    allowed, usage = g.get("limits", (None, None))
    if allowed is None or usage is None:
        return response
    of_minute = {
        "requests": (allowed.requests_per_min, usage.requests),
        "tokens": (allowed.tokens_per_min, usage.tokens),
    }
    for what, (most, used) in of_minute.items():
        if most is not None:
            response.headers[f"x-ratelimit-limit-{what}"] = str(most)
            response.headers[f"x-ratelimit-remaining-{what}"] = str(max(0, most - used))
            response.headers[f"x-ratelimit-reset-{what}"] = f"{usage.reset_s:.3g}s"
    return response
