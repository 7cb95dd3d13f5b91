"""The `slalom` command follows a job, though its connection breaks."""

from tests.integration.scripted_server import ID, answer, chunk, events, job, problem, scripted
from tests.integration.slalom_command import slalom

RUNNING = {"status": "running", "at": "2026-11-21T10:00:00Z"}
SUCCEEDED = {"status": "succeeded", "at": "2026-11-21T10:00:01Z"}


def test_tokens_are_written_as_they_come_and_the_stream_is_resumed_where_it_broke() -> None:
    first = events(("0-0", "status", {"status": "queued"}), ("1-0", "status", RUNNING))
    second = events(("1-1", "chunk", chunk("4")), ("1-2", "chunk", chunk("no", index=1)))
    last = events(("1-3", "chunk", chunk("2")), ("1-end", "status", SUCCEEDED))
    runs = answer(200, job("running", None))
    with scripted(first, runs, second, runs, None, runs, last, answer(200, job())) as server:
        done = slalom(server.url, "watch", ID)

    assert (done.status, done.out) == (0, "42\n")
    asked = [h.get("Last-Event-ID") for what, h, _ in server.requests if "events" in what]
    assert asked == [None, "1-0", "1-2", "1-2"]
    assert "trying again" in done.err


def test_a_run_that_starts_over_adds_only_what_is_new() -> None:
    told = events(
        ("1-1", "chunk", chunk("4")),
        ("1-2", "chunk", chunk("2")),
        ("2-0", "status", RUNNING),
        ("2-1", "chunk", chunk("42")),
        ("2-2", "chunk", chunk("0")),
        ("2-end", "status", SUCCEEDED),
    )
    with scripted(told, answer(200, job(text="4200"))) as server:
        done = slalom(server.url, "watch", ID)

    assert done.out == "4200\n"


def test_events_in_json_are_lines_with_the_job_at_the_end() -> None:
    told = events(("1-1", "chunk", chunk("42")), ("1-end", "status", SUCCEEDED))
    with scripted(told, answer(200, job())) as server:
        done = slalom(server.url, "watch", ID, "--json")

    assert [line["event"] for line in done.jsons] == ["chunk", "status", "job"]
    assert done.jsons[0] == {"event": "chunk", "id": "1-1", "data": chunk("42")}
    assert done.jsons[2]["data"] == job()


def test_a_server_that_stays_away_ends_the_watching_not_the_job() -> None:
    with scripted(events(("1-0", "status", RUNNING)), None) as server:
        done = slalom(server.url, "watch", ID, "--patience", "1")

    assert done.status == 3
    assert f"the job goes on: slalom wait {ID}" in done.err


def test_a_stream_that_has_no_place_for_us_is_asked_again_until_the_job_has_ended() -> None:
    full = answer(503, problem("no_room_to_wait", "too many wait"), Retry_After="0.7")
    runs = answer(200, job("running", None))
    gone = answer(204, b"")
    with scripted(runs, full, runs, full, runs, full, runs, gone, answer(200, job())) as server:
        done = slalom(server.url, "wait", ID, "--patience", "1")

    assert (done.status, done.out) == (0, f"{ID}  succeeded  42\n")
    assert done.err.count("too many wait (HTTP 503)") == 1


def test_without_a_route_for_events_the_job_is_looked_at() -> None:
    missing = answer(404, problem("not_found", "no such page"))
    queued, runs = answer(200, job("queued", None)), answer(200, job("running", None))
    with scripted(queued, missing, queued, runs, answer(200, job())) as server:
        done = slalom(server.url, "wait", ID)

    assert (done.status, done.out) == (0, f"{ID}  succeeded  42\n")
    assert server.requests[1][0] == f"GET /v1/jobs/{ID}/events"
