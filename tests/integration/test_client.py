"""The `slalom` command submits, waits, shows and cancels, in words and in JSON."""

from datetime import datetime
from pathlib import Path

import pytest

from scheduler import jobs
from tests.integration.slalom_site import ANSWER, EIGHT, UNKNOWN, Site


def test_a_job_is_submitted_by_its_id_waited_for_and_shown(site: Site) -> None:
    job_id = site.submitted("--tier", "premium", "--metadata", "order=17", "--metadata", "a=b=c")

    waited, shown = site("wait", job_id), site("show", job_id)

    assert (waited.status, waited.out) == (0, f"{job_id}  succeeded  {ANSWER}\n")
    assert (waited.err, shown.err) == ("", "")
    assert "premium, queue high" in shown.out
    assert "metadata     order=17" in shown.out
    assert "metadata     a=b=c" in shown.out
    assert shown.lines[-1] == ANSWER


def test_an_answer_that_is_waited_for_is_all_that_is_written(site: Site, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("1+1=", encoding="utf-8")

    given = site("submit", "1+1=", "--wait", *EIGHT)
    piped = site("submit", "-", "--wait", *EIGHT, stdin="1+1=")
    read = site("submit", "--file", str(prompt), "--wait", *EIGHT)
    streamed = site("submit", "1+1=", "--stream", *EIGHT)
    chatted = site("submit", "1+1", "--system", "Add.", "--wait", *EIGHT)

    for done in (given, piped, read, streamed, chatted):
        assert (done.status, done.out, done.err) == (0, f"{ANSWER}\n", "")


def test_what_is_asked_for_reaches_the_job(site: Site) -> None:
    asked = ["--temperature", "0.5", "--top-p", "0.9", "--seed", "7", "--stop", "a", "--stop", "b"]

    job = site("submit", "hello", "--json", "--system", "Be brief.", *EIGHT, *asked).json
    [request] = jobs.fetch(site.connection, job["id"]).args

    assert request["endpoint"] == "/v1/chat/completions"
    assert request["body"] | {"model": ""} == {
        "model": "",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 8,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["a", "b"],
    }


def test_deadlines_are_times_as_people_write_them(site: Site) -> None:
    job = site("submit", "1", "--json", "--start-within", "2h", "--finish-within", "1.5d").json

    created = epoch(job["created_at"])
    assert epoch(job["start_by"]) - created == pytest.approx(7_200, abs=60)
    assert epoch(job["finish_by"]) - created == pytest.approx(129_600, abs=60)


def test_every_command_writes_json_and_nothing_else(site: Site) -> None:
    job = site("submit", "1+1=", "--json", *EIGHT).json
    [waited] = site("wait", job["id"], "--json").jsons
    shown = site("show", job["id"], "--json").json
    *_, status, whole = site("watch", job["id"], "--json").jsons

    assert waited == shown == whole["data"]
    assert (shown["id"], shown["status"]) == (job["id"], "succeeded")
    assert status["data"]["status"] == "succeeded"
    assert [queue["name"] for queue in site("queues", "--json").json["data"]] == ["high", "low"]
    assert site("models", "--json").json["object"] == "list"
    assert site("version", "--json").json["slalom"]
    assert site("cancel", UNKNOWN, "--json").json["error"]["code"] == "job_not_found"
    assert site("dead-letters", "list", "--json", "--tier", "none").out == ""
    assert site("dead-letters", "purge", "--dry-run", "--json").json["dry_run"] is True


def test_a_job_that_did_not_succeed_gives_status_1_and_says_why(site: Site) -> None:
    failed, good = site.failed(), site.submitted()

    waited = site("wait", failed, good)
    watched = site("watch", failed)

    assert waited.status == watched.status == 1
    first, second = waited.lines
    assert first.startswith(f"{failed}  failed  invalid_request: ")
    assert second.startswith(f"{good}  succeeded")
    assert watched.err.startswith(f"slalom: job {failed} failed: invalid_request")


def test_a_canceled_job_never_runs_and_is_no_success(site: Site) -> None:
    site.pause()
    job_id = site.submitted()

    canceled, again = site("cancel", job_id), site("cancel", job_id)
    waited = site("wait", job_id)

    assert (canceled.status, canceled.out) == (0, f"{job_id}  canceled\n")
    assert (again.status, again.out) == (3, "")
    assert "nothing left to cancel (HTTP 409)" in again.err
    assert waited.status == 1


def test_ids_come_from_standard_input_too(site: Site) -> None:
    site.pause()
    ids = [site.submitted() for _ in range(3)]

    canceled = site("cancel", ids[0], "-", stdin=f"{ids[1]} {ids[2]}\n\n")

    assert [line.split() for line in canceled.lines] == [[job_id, "canceled"] for job_id in ids]


def test_one_unknown_id_does_not_keep_others_from_being_told(site: Site) -> None:
    job_id = site.submitted()

    done = site("wait", UNKNOWN, job_id)

    assert done.status == 3
    assert done.err.startswith(f"slalom: {UNKNOWN}: there is no job of this id")
    assert done.out == f"{job_id}  succeeded  {ANSWER}\n"


def test_what_the_server_refuses_is_told_field_by_field(site: Site) -> None:
    done = site("submit", "1+1=", "--tier", "gold", "--max-tokens", "0", "--json")

    assert done.status == 3
    assert "  max_tokens: " in done.err
    assert done.json["error"]["code"] == "invalid_request"
    assert done.json["error"]["status"] == 422


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "give one of"),
        (["submit", "1", "--file", "x"], "give one of"),
        (["submit", "--file", "/nowhere"], "/nowhere cannot be read: No such file"),
        (["submit", "--jsonl", "/nowhere"], "/nowhere cannot be read: No such file"),
        (["submit", "--file", "/"], "/ cannot be read: Is a directory"),
        (["submit", "1", "--output", "/nowhere/x"], "/nowhere/x cannot be written"),
        (["submit", "1", "--metadata", "novalue"], "--metadata must be KEY=VALUE"),
        (["submit", "1", "--start-within", "soon"], "--start-within 'soon' is no time"),
        (["submit", "1", "--idempotency-key", "a b"], "--idempotency-key must be"),
        (["submit", "--jsonl", "-", "--stream"], "are for one job"),
        (["submit", "\udcff"], "what was given is not valid UTF-8"),
        (["submit", "1", "--max-tokens", "many"], "should be a valid integer"),
        (["wait"], "Missing argument"),
        (["list", "--colour"], "No such option"),
        (["list", "--limit", "0"], "limit"),
        (["nothing"], "No such command"),
        (["dead-letters", "purge"], "purge what?"),
        (["dead-letters", "replay", "id", "--all"], "not both"),
        (["dead-letters", "list", "--older-than", "-1"], "is no time"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else None,
)
def test_a_wrong_command_line_gives_status_2(site: Site, arguments: list[str], said: str) -> None:
    done = site(*arguments)

    assert (done.status, done.out) == (2, "")
    assert said in " ".join(done.err.split())


def epoch(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
