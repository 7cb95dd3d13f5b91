"""The `slalom` command with servers that refuse, break off, or are none."""

import json

import pytest

from tests.integration.scripted_server import ID, answer, job, problem, scripted
from tests.integration.slalom_command import free_port, on_a_terminal, slalom

TWO = '{"prompt": "1"}\n{"prompt": "2"}\n'


def test_nobody_there_is_said_at_once_with_what_to_do() -> None:
    done = slalom(f"http://127.0.0.1:{free_port()}", "list", "--json")

    assert done.status == 3
    assert done.err.count("\n") == 1
    assert "connection refused" in done.err
    assert "make run" in done.err
    assert done.json["error"]["code"] == "unreachable"


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_of_a_job_nobody_was_asked_about_nothing_is_claimed(command: str) -> None:
    done = slalom(f"http://127.0.0.1:{free_port()}", command, ID)

    assert (done.status, done.err.count("\n")) == (3, 1)
    assert "goes on" not in done.err


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>", Content_Type="text/html"),
        answer(200, b"[1]"),
        answer(301, b"", Location="https://elsewhere.test"),
    ],
    ids=["page", "list", "redirect"],
)
def test_what_is_no_slalom_is_called_so(said: bytes) -> None:
    with scripted(said) as server:
        done = slalom(server.url, "models")

    assert (done.status, done.out) == (3, "")
    assert "not as Slalom does" in done.err


def test_a_refusal_without_json_is_told_by_its_status() -> None:
    with scripted(answer(502, b"<html>bad gateway</html>", Content_Type="text/html")) as server:
        done = slalom(server.url, "models")

    assert (done.status, done.err) == (3, "slalom: Said (HTTP 502)\n")


def test_a_refusal_for_now_is_waited_for_and_told() -> None:
    busy = answer(429, problem("rate_limited", "too many requests"), Retry_After="0.2")
    away = answer(503, problem("redis_unavailable", "Redis does not answer"), Retry_After="0.3")
    with scripted(busy, away, answer(202, job("queued", None))) as server:
        done = slalom(server.url, "submit", "1+1=")

    assert (done.status, done.out) == (0, f"{ID}\n")
    assert "too many requests (HTTP 429); trying again in 0.2 s" in done.err
    assert "Redis does not answer (HTTP 503); trying again in 0.3 s" in done.err
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("headers", "patience"),
    [
        ({"Retry_After": "30"}, "2"),
        ({"Retry_After": "Wed, 21 Oct 2099 07:28:00 GMT"}, "60"),
        ({"Retry_After": "0", "x_should_retry": "false"}, "60"),
        ({}, "60"),
    ],
    ids=["too long", "date", "final", "not said"],
)
def test_a_refusal_that_patience_does_not_reach_ends_it(
    headers: dict[str, str], patience: str
) -> None:
    with scripted(answer(429, problem("rate_limited", "too many"), **headers)) as server:
        done = slalom(server.url, "submit", "1+1=", "--patience", patience)

    assert (done.status, len(server.requests)) == (3, 1)
    assert "too many (HTTP 429)" in done.err


def test_a_submission_that_may_have_arrived_is_not_sent_again() -> None:
    doubt = problem("redis_unavailable", "may have been accepted", instance=f"/v1/jobs/{ID}")
    with scripted(answer(503, doubt, Retry_After="0")) as server:
        refused = slalom(server.url, "submit", "1+1=")
    with scripted(answer(404, problem("not_found", "no lists here")), None) as broken:
        lost = slalom(broken.url, "submit", "--jsonl", "-", stdin=TWO)

    assert (refused.status, len(server.requests)) == (3, 1)
    assert "may have been accepted" in refused.err
    assert (lost.status, lost.out, len(broken.requests)) == (1, "", 3)
    assert lost.err.count("may have been done: look before doing it again") == 2


def test_a_submission_with_a_key_of_its_own_is_sent_again() -> None:
    doubt = problem("redis_unavailable", "may have been accepted", instance=f"/v1/jobs/{ID}")
    accepted = answer(202, job("queued", None))
    with scripted(answer(503, doubt, Retry_After="0"), None, accepted) as server:
        done = slalom(server.url, "submit", "1+1=", "--idempotency-key", "order-17")

    assert (done.status, done.out) == (0, f"{ID}\n")
    assert [h["Idempotency-Key"] for _, h, _ in server.requests] == ["order-17"] * 3


def test_fields_that_are_wrong_are_told_one_per_line() -> None:
    errors = [{"field": "tier", "message": "no such tier"}, {"field": "seed", "message": "no int"}]
    with scripted(answer(422, problem("invalid_request", "two", errors=errors))) as server:
        done = slalom(server.url, "submit", "1+1=", "--json")

    assert done.status == 3
    assert done.err == "slalom: It is so (HTTP 422)\n  tier: no such tier\n  seed: no int\n"
    assert done.json["error"]["errors"] == errors


def test_the_key_is_sent_and_never_told() -> None:
    refused = answer(401, problem("unauthorized", "the key is not known"))
    with scripted(refused) as server:
        done = slalom(server.url, "list", "--json", SLALOM_API_KEY="sk-very-secret")
        bad = slalom(server.url, "list", "--api-key", "sk-very secret")
        shown = slalom(server.url, "list", "--help", SLALOM_API_KEY="sk-very-secret")

    assert [h["Authorization"] for _, h, _ in server.requests] == ["Bearer sk-very-secret"]
    assert (done.status, bad.status, shown.status) == (3, 2, 0)
    assert "secret" not in done.out + done.err + bad.out + bad.err + shown.out + shown.err


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://h", "http://", "http://u:sesame@h", "http://h:99999", "http://h?q"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    done = slalom(url, "list")

    assert (done.status, done.out) == (2, "")
    assert "--url (SLALOM_URL)" in done.err
    assert "sesame" not in done.err


def test_a_list_that_is_refused_as_a_whole_is_sent_line_by_line() -> None:
    too_large = answer(413, problem("body_too_large", "too large"))
    bad = answer(422, problem("invalid_request", "bad", errors=[]))
    with scripted(too_large, bad, answer(202, job("queued", None))) as server:
        done = slalom(server.url, "submit", "--jsonl", "-", stdin=TWO)

    assert (done.status, done.out) == (1, f"{ID}\n")
    together, *alone = [json.loads(body) for _, _, body in server.requests]
    assert together == {"jobs": [{"prompt": "1"}, {"prompt": "2"}]}
    assert sorted(body["prompt"] for body in alone) == ["1", "2"]  # several lines go at once


def test_of_a_list_what_is_refused_for_now_is_sent_again_and_only_that() -> None:
    items = [
        {"status": 202, "job": job("queued", None)},
        {"status": 429, "error": problem("rate_limited", "too many")},
        {"status": 503, "error": problem("redis_unavailable", "perhaps", instance="/v1/jobs/x")},
        {"status": 422, "error": problem("invalid_request", "bad")},
    ]
    again = answer(202, job("queued", None) | {"id": "again"})
    lines = "".join(f'{{"prompt": "{n}"}}\n' for n in range(4))
    with scripted(answer(200, {"items": items}), again) as server:
        done = slalom(server.url, "submit", "--jsonl", "-", stdin=lines)

    assert (done.status, done.lines) == (1, [ID, "again"])
    assert "line 3: perhaps (HTTP 503)" in done.err
    assert "line 4: bad (HTTP 422)" in done.err
    assert "2 of 4 lines failed" in done.err
    assert [json.loads(body) for _, _, body in server.requests[1:]] == [{"prompt": "1"}]


def test_a_key_goes_with_each_line_under_its_number() -> None:
    with scripted(answer(202, job("queued", None))) as server:
        slalom(
            server.url, "submit", "--jsonl", "-", "--idempotency-key", "run",
            stdin='{"prompt":"1"}\n\n{"prompt":"2"}',
        )  # fmt: skip

    sent = sorted((h["Idempotency-Key"], what) for what, h, _ in server.requests)
    assert sent == [("run:1", "POST /v1/jobs"), ("run:3", "POST /v1/jobs")]


def test_an_answer_moves_no_cursor_on_a_terminal_and_is_untouched_on_a_pipe() -> None:
    attack = "4\x1b]0;title\x07\x1b[2J\r2\x9b31m [red]loud[/red]"
    body = job(text=attack, metadata={"\x1b[1m": "\x07"}, error=None)
    with scripted(answer(200, body)) as server:
        screen = on_a_terminal(server.url, "show", ID, NO_COLOR="1")
        piped = slalom(server.url, "submit", "1", "--wait")

    assert "\x1b]0;" not in screen
    assert "\x1b[2J" not in screen
    assert "\x07" not in screen
    assert "\x9b" not in screen
    assert "[red]loud[/red]" in screen
    assert piped.out == f"{attack}\n"


@pytest.mark.parametrize("job_id", ["..", "", "a\nb", "\udcff", "x" * 600])
def test_what_can_be_no_id_is_not_asked_for(job_id: str) -> None:
    with scripted(answer(200, job())) as server:
        done = slalom(server.url, "cancel", job_id)

    assert (done.status, server.requests) == (2, [])
    assert "no id of a job" in done.err


def test_an_id_is_one_part_of_the_path() -> None:
    with scripted(answer(200, job())) as server:
        slalom(server.url, "show", "../models?x#y%2e")

    assert server.requests[0][0] == "GET /v1/jobs/..%2Fmodels%3Fx%23y%252e"
