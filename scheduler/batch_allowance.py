"""Batch allowance: what a batch's tenant may queue, by its own limits.

A line that its tenant may never ask for fails alone; one that must wait for a limit makes its batch
wait. A charge is counted once for a job, however often it is asked for; that of a line that is
written off before it was queued is dropped by the sweep of open jobs.
"""

from dataclasses import dataclass, replace

from redis import Redis

from config.tiers import TierTable
from scheduler import limits
from scheduler.batch_lines import LineFault
from scheduler.charge import tokens_of
from scheduler.limits import Charge, Charged
from scheduler.submit import Submission
from scheduler.tenant_store import DamagedTenant, TenantStore, UnknownTenant
from scheduler.tenants import ANYBODY
from scheduler.work import UNKNOWN_OUTPUT


@dataclass(frozen=True, slots=True)
class TenantAllowance:
    """Holds the lines of batches to what their tenants may do."""

    connection: Redis
    tiers: TierTable

    def admit(self, submission: Submission) -> Submission | LineFault | None:
        """Return the submission, charged; or why it never may come; None: it must wait."""
        if submission.tenant == ANYBODY.name:
            return submission
        try:
            tenant = TenantStore(self.connection, self.tiers).get(submission.tenant)
        except (UnknownTenant, DamagedTenant):
            return LineFault(None, "unknown_tenant", "the tenant of the batch is no more")
        if not tenant.may_use(submission.tier, self.tiers):
            return LineFault(None, "tier_forbidden", "the tier is above the tenant's ceiling")
        if not tenant.may_ask(str(submission.request["body"].get("model"))):
            text = "the tenant may not use this model"
            return LineFault(None, "model_forbidden", text, "body.model")
        tokens = tokens_of(submission.request, None, UNKNOWN_OUTPUT)
        charge = Charge(tenant.name, submission.tier, submission.job_id or "", tokens)
        outcome = limits.admit(self.connection, charge, tenant.limits_in(submission.tier))
        if isinstance(outcome, Charged):
            return replace(submission, account=charge.account, weight=tenant.weight)
        if outcome.is_for_ever:
            text = f"it alone is more than {outcome.limit} of the tenant in this tier"
            return LineFault(None, "over_limit", text)
        return None
