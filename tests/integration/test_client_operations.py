"""The `slalom` command for those who look after an installation."""

import subprocess
import sys

from tests.integration.slalom_command import environment
from tests.integration.slalom_site import UNKNOWN, Site


def test_the_queues_are_shown_with_what_waits_and_works(site: Site) -> None:
    site.pause()
    site.submitted("--tier", "batch")

    done = site("queues")

    header, high, low = done.lines
    assert header.split() == (
        ["QUEUE", "WAITING", "RUNNING", "WORKERS", "STARTING", "NEXT", "WAITS", "TIERS"]
    )
    assert high.split()[0::3] == ["high", "1", "premium"]
    assert low.split()[:4] == ["low", "1", "0", "1"]
    assert low.endswith("standard, batch")


def test_models_are_listed(site: Site) -> None:
    done = site("models")

    header, model = done.lines
    assert header.split()[0] == "MODEL"
    assert model.split()[0] == site("models", "--json").json["data"][0]["id"]


def test_dead_letters_are_listed_shown_replayed_and_purged(site: Site) -> None:
    site("dead-letters", "purge", "--all")
    ids = [site.failed() for _ in range(3)]
    site("wait", *ids)

    listed = site("dead-letters", "list", "--cause", "invalid_request")
    page = site("dead-letters", "list", "--json", "--limit", "2")
    shown = site("dead-letters", "show", ids[0])
    site.pause()
    replayed = site("dead-letters", "replay", ids[0], UNKNOWN)
    site.resume()
    site("wait", ids[0])
    counted = site("dead-letters", "purge", "--queue", "low", "--dry-run")
    purged = site("dead-letters", "purge", ids[1])
    rest = site("dead-letters", "purge", "--older-than", "0", "--json")

    assert {line.split()[0] for line in listed.lines[1:]} == set(ids)
    assert len(page.jsons) == 2
    assert "there may be more: --cursor " in page.err
    assert "invalid_request: " in shown.out
    assert (replayed.status, replayed.out) == (3, f"{ids[0]}  queued\n")
    assert counted.out.endswith("3 matched, 0 purged\n")
    assert purged.out == f"{ids[1]}  purged\n"
    assert rest.json["purged"] == 2
    assert site("dead-letters", "list").out == ""


def test_a_list_goes_on_behind_its_cursor(site: Site) -> None:
    site("dead-letters", "purge", "--all")
    ids = [site.failed() for _ in range(5)]
    site("wait", *ids)

    first = site("dead-letters", "list", "--limit", "2", "--json")
    cursor = first.err.split()[-1]
    rest = site("dead-letters", "list", "--all", "--json", "--cursor", cursor)

    assert {letter["id"] for letter in first.jsons + rest.jsons} == set(ids)
    assert len(first.jsons) == 2
    assert rest.err == ""


def test_the_operators_command_is_passed_on(site: Site) -> None:
    own = subprocess.run(
        [sys.executable, "-m", "scheduler.tenants", "--help"],
        env=environment(site.url, REDIS_URL=site.redis_url),
        capture_output=True,
        text=True,
    )

    passed_on = site("tenants", "--help", REDIS_URL=site.redis_url)

    assert (passed_on.status, passed_on.out) == (own.returncode, own.stdout)
