"""What a person sees first: the wait until the system is ready, two jobs, and where to go on.

The jobs are sums, which the small model that ships with Slalom has learnt: one of each end of the
SLA table, sent over HTTP as any client would.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

from onebox.terminal import Terminal

GIVE_UP_S = 600.0  # a dead man's limit: nothing takes this long
POLL_S = 0.5
SUMS = (("premium", "128+256="), ("batch", "77+5="))

Json = dict[str, Any]


class FirstRunError(Exception):
    """The system did not come up."""


class Site:
    """The API under one address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, path: str, body: Json | None = None, *, timeout_s: float = 5.0) -> Json:
        """GET, or POST where there is a body; return the JSON answered, with its `status_code`."""
        request = urllib.request.Request(self.address + path)
        request.add_header("Content-Type", "application/json")
        request.add_header("Prefer", "wait=30")
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return {**json.load(reply), "status_code": reply.status}
        except urllib.error.HTTPError as error:
            with error:
                return {**_json(error.read()), "status_code": error.code}


def wait_until_ready(site: Site, terminal: Terminal, is_stopping: Callable[[], bool]) -> bool:
    """Wait for /readyz, showing what it waits for; False if a stop came first.

    FirstRunError past the limit.
    """
    started = time.monotonic()
    while not is_stopping():
        waiting_for = why_not_ready(site)
        took_s = time.monotonic() - started
        if waiting_for is None:
            terminal.clear()
            terminal.say(f"Ready after {took_s:.0f} s.")
            return True
        if took_s > GIVE_UP_S:
            raise FirstRunError(f"Not ready after {GIVE_UP_S / 60:.0f} minutes: {waiting_for}")
        terminal.live(f"Starting, {took_s:.0f} s: {waiting_for}")
        time.sleep(POLL_S)
    return False


def why_not_ready(site: Site) -> str | None:
    """Return what the system waits for, None once it is ready."""
    try:
        answer = site.call("/readyz")
    except (OSError, ValueError):
        return "the API does not answer yet"
    if answer["status_code"] == 200:
        return None
    return str(answer.get("detail") or answer.get("title") or "not ready")


def needs_key(site: Site) -> bool:
    """Whether the API answers only to API keys, because there are tenants."""
    try:
        return bool(site.call("/v1/models")["status_code"] == HTTPStatus.UNAUTHORIZED)
    except (OSError, ValueError):
        return False


def do_first_jobs(site: Site, terminal: Terminal) -> None:
    """Run one premium and one batch job and show what became of them."""
    for tier, prompt in SUMS:
        body = {"prompt": prompt, "tier": tier, "max_tokens": 8, "temperature": 0}
        try:
            job = site.call("/v1/jobs", body, timeout_s=60)
        except (OSError, ValueError) as error:
            job = {"status_code": 0, "detail": str(error)}
        terminal.say(summary(job, tier, prompt))


def summary(job: Json, tier: str, prompt: str) -> str:
    """Say in one line what a job answered and how long each part took."""
    if job["status_code"] not in (200, 202):
        reason = job.get("detail") or job.get("title") or f"HTTP {job['status_code']}"
        return f"  {tier:<8} {prompt} was not accepted: {reason}"
    text = (job.get("output") or {}).get("text")
    if text is None:
        return f"  {tier:<8} {prompt} is {job.get('status')}, see /v1/jobs/{job.get('id')}"
    times = job.get("timestamps") or job
    waited = _between(times, "queued_at", "started_at")
    latency = _between(times, "created_at", "finished_at")
    return f"  {tier:<8} {prompt + text.strip():<14} waited {waited}, answered after {latency}"


def where_to_go(site: Site, dashboard: str, *, is_simulated: bool, with_key: bool = False) -> str:
    """Return the addresses and a command to go on with; `with_key`: the API asks for one."""
    body = json.dumps({"prompt": "12+30=", "tier": "premium", "max_tokens": 8, "temperature": 0})
    note = "The engine is simulated: no model makes these answers.\n" if is_simulated else ""
    note += "" if with_key else "There are no tenants: no API keys, and this machine only.\n"
    key = " -H 'Authorization: Bearer sk-slalom-…'" if with_key else ""
    return (
        f"{note}\n  API        {site.address}\n  Dashboard  {dashboard}\n\nTry it:\n"
        f"  curl {site.address}/v1/jobs -H 'Prefer: wait=30'{key}"
        f" -H 'Content-Type: application/json' -d '{body}'\n\nCtrl-C stops everything."
    )


def _between(times: Json, first: str, last: str) -> str:
    """Return the time between two of a job's timestamps in ms, `-` where one is missing."""
    if not times.get(first) or not times.get(last):
        return "-"
    return f"{(_seconds(times[last]) - _seconds(times[first])) * 1000:.0f} ms"


def _seconds(instant: float | str) -> float:
    """Return an instant, epoch seconds or ISO 8601, in epoch seconds."""
    if isinstance(instant, str):
        return datetime.fromisoformat(instant).timestamp()
    return float(instant)


def _json(body: bytes) -> Json:
    """Return a JSON object, an empty one for anything else."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
