"""Open jobs: those of a tenant that were accepted and have not ended, counted per tier.

    slalom:open:{tenant}:{tier}   zset   "{job}:{tokens}" -> accepted at
    slalom:open:{tenant}          hash   tier -> tokens of those jobs together

`lua/admit.lua` puts a job there before it is queued. The script that ends a job takes it out in the
same step: finish, cancel, expire and rescue take in `lua/open.lua` for that; a replay puts it in
again. What RQ's own code ended is settled afterwards. A job that left by any other way, such as
RQ's `delete`, is dropped when its tenant runs into its limit, if it is one of the oldest, and in
any case by `Sweep`, which goes over all of them, a bounded stretch at a time.
"""

from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from scheduler import keys

STEP = 500
MOST_STEPS = 40
"""Script calls of one sweep."""
YOUNG_S = 60
"""An entry without a record may be of a job that is being accepted."""

_Stretch = tuple[str, str, int]


def settle(connection: Redis, *job_ids: str) -> None:
    """Let those of the jobs that have ended leave the open ones."""
    keys.script(connection, "settle")(args=job_ids)


@dataclass(slots=True)
class Sweep:
    """Goes over the open jobs of all tenants, and drops those that have ended."""

    connection: Redis
    _todo: list[_Stretch] = field(default_factory=list, init=False)

    def step(self, *, young_s: float = YOUNG_S) -> int:
        """Do a bounded part of it, and go on from there the next time; return how many went."""
        self._todo = self._todo or self._everything()
        num_dropped = 0
        for _ in range(MOST_STEPS):
            if not self._todo:
                break
            tenant, tier, first = self._todo.pop()
            looked_at, dropped = keys.script(self.connection, "sweep")(
                keys=[keys.open_jobs(tenant, tier)], args=[tenant, tier, first, STEP, young_s]
            )
            num_dropped += dropped
            if looked_at == STEP:
                self._todo.append((tenant, tier, first + STEP - dropped))
        return num_dropped

    def _everything(self) -> list[_Stretch]:
        found: list[_Stretch] = []
        for name in cast(list[bytes], self.connection.hkeys(keys.TENANTS)):
            tenant = name.decode(errors="replace")
            tiers = cast(list[bytes], self.connection.hkeys(keys.open_tokens(tenant)))
            found += [(tenant, tier.decode(errors="replace"), 0) for tier in tiers]
        return found
