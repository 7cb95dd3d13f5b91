"""The `slalom` command with the jobs in the lines of a file."""

import json
import os
from pathlib import Path

from scheduler import keys
from tests.integration.slalom_command import (
    started,
)
from tests.integration.slalom_site import ANSWER, EIGHT, Site


def test_lines_that_are_bad_are_told_by_number_and_the_others_go_on(
    site: Site, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"{n}+1=", "max_tokens": 8}).encode() for n in range(300)]
    lines[2] = b'{"prompt": '
    lines[10] = b"[1, 2]"
    lines[20] = b""
    lines[30] = b'{"prompt": "\xff"}'
    lines[40] = b'{"prompt": "1", "colour": "red"}'
    lines[50] = b'{"prompt": NaN}'
    lines[60] = b'{"prompt": "\\ud800"}'
    lines[70] = b"[" * 100_000
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b"\n".join(lines))

    done = site("submit", "--jsonl", str(file), "--tier", "premium")

    assert done.status == 1
    assert len(set(done.lines)) == 292
    told = [line for line in done.err.splitlines() if line.startswith("slalom: line ")]
    assert [line.split()[2] for line in told] == ["3:", "11:", "31:", "41:", "51:", "61:", "71:"]
    assert "slalom: line 3: not JSON: Expecting value, column 12" in told
    assert "  colour: " in done.err
    assert "7 of 299 lines failed" in done.err
    tiers = {site("show", job_id, "--json").json["tier"] for job_id in done.lines[::100]}
    assert tiers == {"premium"}


def test_the_outcomes_of_lines_go_to_a_file_in_their_order(site: Site, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    lines = [json.dumps({"prompt": "1+1=", "metadata": {"n": str(n)}}) for n in range(20)]
    lines[7] = "no json"

    done = site(
        "submit", "--jsonl", "-", "--wait", "--output", str(results), *EIGHT, stdin="\n".join(lines)
    )

    assert (done.status, done.out) == (1, "")
    written = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert written[0]["line"] == 8
    assert written[0]["error"]["code"] == "bad_line"
    assert [entry["line"] for entry in written[1:]] == [n for n in range(1, 21) if n != 8]
    for entry in written[1:]:
        assert entry["job"]["metadata"] == {"n": str(entry["line"] - 1)}
        assert entry["job"]["output"]["text"] == ANSWER


def test_a_slow_producer_of_lines_does_not_hold_up_those_it_has_written(site: Site) -> None:
    with started(site.url, "submit", "--jsonl", "-") as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write('{"prompt": "1+1="}\n')
        process.stdin.flush()

        first = process.stdout.readline().strip()

        assert site("wait", first).status == 0
        assert process.poll() is None


def test_the_same_file_with_the_same_key_makes_no_job_twice(site: Site) -> None:
    key = os.urandom(4).hex()
    lines = [json.dumps({"prompt": f"{n}+1=", "max_tokens": 8}) for n in range(20)]
    one = ["submit", "--jsonl", "-", "--idempotency-key", key]

    first = site(*one, stdin="\n".join(lines[:12]))
    again = site(*one, stdin="\n".join(lines))
    other = site("submit", "2+2=", "--idempotency-key", f"{key}:1")

    assert first.status == again.status == 0
    assert again.lines[:12] == first.lines
    assert len(set(again.lines)) == 20
    assert other.status == 3
    assert "HTTP 409" in other.err


def test_jobs_of_a_list_are_queued_in_the_order_of_the_lines(site: Site) -> None:
    site.pause()
    before = site.connection.llen(keys.queue("low"))
    lines = "\n".join(json.dumps({"prompt": f"{n}+1="}) for n in range(500))

    ids = site("submit", "--jsonl", "-", "--tier", "batch", stdin=lines).lines

    queued = site.connection.lrange(keys.queue("low"), before, -1)
    assert [job_id.decode() for job_id in queued] == ids
    assert site("cancel", "-", stdin="\n".join(ids)).status == 0
