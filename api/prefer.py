"""Prefer: how long a client is willing to wait, from the `Prefer` header (RFC 7240).

    Prefer: wait=10                     wait up to ten seconds for the job to end
    Prefer: respond-async, wait="10"    the same

Preferences that are not known here are ignored, as the RFC asks.
"""

import re

from api.problems import BadPreference
from api.route import Header

HEADER = Header("Prefer", "`wait=N`: wait up to N seconds for the job to end (RFC 7240)")
_WAIT = re.compile(r'wait\s*=\s*(?:(\d{1,9})|"(\d{1,9})")', re.IGNORECASE)


def wait_s(header: str | None, *, most_s: int) -> int | None:
    """Return the seconds to wait, at most `most_s`; None if the header names none."""
    preferences = (part.split(";")[0].strip() for part in (header or "").split(","))
    wait = next((p for p in preferences if p.partition("=")[0].strip().lower() == "wait"), None)
    if wait is None:
        return None
    found = _WAIT.fullmatch(wait)
    if found is None:
        raise BadPreference("wait must be a whole number of seconds, such as `Prefer: wait=10`")
    return min(int(found[1] or found[2]), most_s)
