"""Who follows a job sees all of it, in order, from wherever he begins, whatever happens to it."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from api import feed, follow, hub
from api.follow import Chunk, Event, Follower, Following, Silence, StatusChanged
from api.hub import Hub
from api.problems import BadCursor, NoRoomToWait
from config import connections, embedded_redis
from scheduler import cancel, events, finish, jobs
from scheduler.chunks import Assembly, rest_of
from scheduler.claim import Claim
from scheduler.events import GAP, Piece
from scheduler.jobs import Request, UnknownJob
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_claim import claims_of

PATIENCE_S = 30
RESPONSE = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": "384", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
}


def request(max_tokens: int = 12) -> Request:
    return Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": max_tokens})


MakeFollower = Callable[..., Follower]


@pytest.fixture
def make_follower() -> Iterator[MakeFollower]:
    """Make followers of a Redis, as a web process has one; all end after the test."""
    made: list[tuple[Hub, Redis]] = []

    def make(url: str, *, capacity: int = 100) -> Follower:
        connection = connections.commands(url)
        each = Hub(connection, connections.listener(url), capacity=capacity)
        made.append((each, connection))
        return Follower(connection, each)

    yield make
    for each, connection in made:
        each.close()
        if each._thread:
            each._thread.join()
        connection.close()


@pytest.fixture
def follower(make_follower: MakeFollower, redis_url: str) -> Follower:
    return make_follower(redis_url)


@pytest.fixture
def _only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave announcements as the only way to learn of anything."""
    monkeypatch.setattr(hub, "RECHECK_S", 3600.0)


class Stream:
    """A job that is streamed by hand, as a worker does it."""

    def __init__(self, connection: Redis, claim: Claim) -> None:
        self.connection = connection
        self.claim = claim
        self.job_id = claim.job.id
        self._n = 0
        self.append(datetime.now(UTC).isoformat())

    @classmethod
    def of_new_job(cls, connection: Redis, submitter: Submitter) -> "Stream":
        submitter.submit(request(), tier="batch", stream=True)
        return cls(connection, claims_of(connection).take(1)[0])

    def append(self, *bodies: str) -> None:
        entries = [(self._n + place, body) for place, body in enumerate(bodies)]
        assert events.append(self.connection, [Piece(self.claim, entries)]) == ["held"]
        self._n += len(bodies)

    def say(self, *texts: str) -> None:
        choices = [{"index": 0, "text": text, "finish_reason": None} for text in texts]
        self.append(*(json.dumps({"choices": [choice]}) for choice in choices))

    def finish(self, body: object = RESPONSE) -> None:
        success = finish.Success(self.claim, body, datetime.now(UTC), result_ttl=60)
        assert finish.write(self.connection, "worker", [success]) == ["written"]


def ids(seen: list[Event]) -> list[str]:
    return [event.id for event in seen if not isinstance(event, Silence)]


def statuses(seen: list[Event]) -> list[tuple[str, str]]:
    return [(event.id, event.status) for event in seen if isinstance(event, StatusChanged)]


def text_of(seen: list[Event]) -> str:
    """Return the text that a client has in the end: a new attempt starts over."""
    text, attempt = "", ""
    for event in seen:
        if isinstance(event, Chunk):
            if attempt != event.id.partition("-")[0]:
                text, attempt = "", event.id.partition("-")[0]
            text += "".join(c["text"] or "" for c in json.loads(event.body)["choices"])
    return text


def some(following: Following, count: int) -> list[Event]:
    """Return the next `count` events that are not silence."""
    seen: list[Event] = []
    while len(seen) < count:
        event = next(following)
        seen += [] if isinstance(event, Silence) else [event]
    return seen


def test_a_job_is_followed_from_its_queue_to_its_end(
    follower: Follower, submitter: Submitter, connection: Redis, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(), tier="batch", stream=True)
    with follower.follow(job.id) as following:
        begin = some(following, 1)
        start_worker("low")
        seen = begin + list(following)

    assert statuses(seen) == [("0-0", "queued"), ("1-0", "running"), ("1-end", "succeeded")]
    view = jobs.view(jobs.fetch(connection, job.id))
    instants = [event.at for event in seen if isinstance(event, StatusChanged)]
    assert instants[0] == view.created_at
    assert instants[1:] == [view.started_at, view.finished_at]
    chunks = [json.loads(event.body) for event in seen if isinstance(event, Chunk)]
    assert len(chunks) == 13
    assert chunks[-1]["choices"] == []
    assert text_of(seen) == view.response["choices"][0]["text"] == "[simulated: 12 tokens]"
    parts = Assembly()
    for chunk in chunks:
        parts.add(chunk)
    assert {**parts.response(), "created": 0} == {**view.response, "created": 0}


def test_who_comes_back_goes_on_behind_whatever_he_saw_last(
    follower: Follower, submitter: Submitter, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(), tier="batch", stream=True)
    start_worker("--burst", "low").wait()
    whole = list(follower.follow(job.id))

    for place, event in enumerate(whole):
        assert not isinstance(event, Silence)
        with follower.follow(job.id, event.id) as following:
            rest = list(following)

        assert rest == whole[place + 1 :] or (rest == [event] and event is whole[-1])


def test_who_comes_back_while_it_runs_misses_nothing(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    stream = Stream.of_new_job(connection, submitter)
    stream.say("3")
    with follower.follow(stream.job_id) as following:
        first = some(following, 3)
    stream.say("8")

    with follower.follow(stream.job_id, ids(first)[-1]) as following:
        second = some(following, 1)
        stream.say("4")
        stream.finish()
        second += list(following)

    assert ids(first + second) == ["0-0", "1-0", "1-1", "1-2", "1-3", "1-end"]
    assert text_of(first + second) == "384"


@pytest.mark.usefixtures("_only_told")
def test_every_reader_of_a_job_sees_each_event_once(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    stream = Stream.of_new_job(connection, submitter)

    def read(after: str | None) -> list[Event]:
        with follower.follow(stream.job_id, after) as following:
            return list(following)

    with ThreadPoolExecutor(20) as threads:
        readers = [threads.submit(read, None) for _ in range(10)]
        for _ in range(200):
            stream.say("x")
        readers += [threads.submit(read, None) for _ in range(10)]
        stream.finish()
        seen = [ids(reader.result(PATIENCE_S)) for reader in readers]

    assert seen == [["0-0", "1-0", *(f"1-{n}" for n in range(1, 201)), "1-end"]] * 20


def test_a_job_that_nobody_streams_gives_its_tokens_once_it_is_followed_in_time(
    follower: Follower, submitter: Submitter, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(), tier="batch")
    with follower.follow(job.id) as following:
        some(following, 1)
        start_worker("low")
        seen = list(following)

    assert sum(isinstance(event, Chunk) for event in seen) == 13


@pytest.mark.parametrize("after", [None, "0-0", "1-0", "1-1", "1-2"])
def test_a_job_that_was_no_stream_gives_its_text_at_the_end(
    follower: Follower, submitter: Submitter, connection: Redis, after: str | None
) -> None:
    submitter.submit(request(), tier="batch")
    [claim] = claims_of(connection).take(1)
    with follower.follow(claim.job.id, after) as following:
        success = finish.Success(claim, RESPONSE, datetime.now(UTC), result_ttl=60)
        finish.write(connection, "worker", [success])
        seen = list(following)

    whole = ["0-0", "1-0", "1-1", "1-2", "1-end"]
    assert ids(seen) == whole[whole.index(after) + 1 if after else 0 :]
    bodies = [json.loads(event.body) for event in seen if isinstance(event, Chunk)]
    assert bodies == rest_of(RESPONSE)[2 - len(bodies) :]


def test_a_job_that_runs_already_is_shown_running_and_with_its_text_at_the_end(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    submitter.submit(request(), tier="batch")
    [claim] = claims_of(connection).take(1)
    with follower.follow(claim.job.id) as following:
        begin = some(following, 2)
        success = finish.Success(claim, RESPONSE, datetime.now(UTC), result_ttl=60)
        finish.write(connection, "worker", [success])
        rest = list(following)

    assert statuses(begin) == [("0-0", "queued"), ("1-0", "running")]
    assert text_of(rest) == "384"
    assert ids(rest)[-1] == "1-end"


@pytest.mark.parametrize("after", [None, "1-2", "1-3", "1-4"])
def test_after_a_gap_the_rest_is_read_off_the_response(
    follower: Follower, submitter: Submitter, connection: Redis, after: str | None
) -> None:
    stream = Stream.of_new_job(connection, submitter)
    stream.say("3", "8")
    with follower.follow(stream.job_id, after) as following:
        seen = some(following, 4) if after is None else []
        stream.append(GAP)
        stream.finish()
        seen += list(following)

    whole = ["0-0", "1-0", "1-1", "1-2", "1-3", "1-4", "1-end"]
    assert ids(seen) == whole[whole.index(after) + 1 if after else 0 :]
    assert text_of(seen) == {None: "384", "1-2": "4"}.get(after, "")


def test_a_job_cancelled_in_the_queue_ends_without_an_attempt(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    job = submitter.submit(request(), tier="batch", stream=True)
    with follower.follow(job.id) as following:
        some(following, 1)
        cancel.cancel(connection, jobs.fetch(connection, job.id))
        seen = list(following)

    assert statuses(seen) == [("0-end", "canceled")]


def test_a_job_cancelled_while_it_runs_ends_with_what_it_has(
    follower: Follower, submitter: Submitter, connection: Redis, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(3000), tier="batch", stream=True)
    start_worker("low")
    with follower.follow(job.id) as following:
        begin = some(following, 10)
        cancel.cancel(connection, jobs.fetch(connection, job.id))
        rest = list(following)

    assert statuses(rest) == [("1-end", "canceled")]
    view = jobs.view(jobs.fetch(connection, job.id))
    assert text_of(begin + rest) == view.response["choices"][0]["text"]


def test_a_worker_killed_in_mid_stream_is_seen_as_another_attempt(
    follower: Follower, submitter: Submitter, connection: Redis, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(400), tier="batch", stream=True)
    first = start_worker("low", SLALOM_LEASE_S="1")
    with follower.follow(job.id) as following:
        seen = some(following, 20)
        first.signal(signal.SIGKILL)
        first.wait()
        until(lambda: rescue(connection, "low", max_deliveries=3).requeued)
        start_worker("low")
        seen += list(following)
    late = list(follower.follow(job.id))

    assert statuses(seen) == [
        ("0-0", "queued"),
        ("1-0", "running"),
        ("2-0", "running"),
        ("2-end", "succeeded"),
    ]
    attempts = [event_id.partition("-")[0] for event_id in ids(seen)]
    assert attempts == sorted(attempts)
    assert text_of(seen) == text_of(late) == "[simulated: 400 tokens]"
    assert {event_id.partition("-")[0] for event_id in ids(late)} == {"0", "2"}


def test_an_engine_that_dies_in_mid_stream_is_seen_as_another_attempt(
    follower: Follower, submitter: Submitter, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(1500), tier="batch", stream=True)
    start_worker("high", "low")
    with follower.follow(job.id) as following:
        seen = some(following, 20)
        poison = Request(endpoint="/v1/completions", body={"prompt": "1", "simulate": "crash"})
        submitter.submit(poison, tier="premium")
        seen += list(following)

    assert [event_id for event_id, _ in statuses(seen)] == ["0-0", "1-0", "2-0", "2-end"]
    assert text_of(seen) == "[simulated: 1500 tokens]"


def test_a_job_handed_back_goes_on_as_another_attempt_with_all_its_text(
    follower: Follower, submitter: Submitter, start_worker: StartWorker
) -> None:
    job = submitter.submit(request(1500), tier="batch", stream=True)
    first = start_worker("low", SLALOM_DRAIN_S="0")
    with follower.follow(job.id) as following:
        seen = some(following, 20)
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        start_worker("low")
        seen += list(following)

    assert [event_id for event_id, _ in statuses(seen)] == ["0-0", "1-0", "2-0", "2-end"]
    assert text_of(seen) == "[simulated: 1500 tokens]"
    num_chunks = [sum(e.startswith(f"{attempt}-") for e in ids(seen)) for attempt in (1, 2)]
    assert num_chunks[1] < 1500 < sum(num_chunks)


def test_a_reader_who_stops_reading_is_held_nothing_for_and_misses_nothing(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    stream = Stream.of_new_job(connection, submitter)
    num_chunks = 4 * feed.MOST_ENTRIES
    with (
        follower.follow(stream.job_id) as following,
        follower.follow(stream.job_id) as other,
    ):
        seen = some(following, 2)
        some(other, 2)
        for _ in range(num_chunks // 64):
            stream.say(*["x"] * 64)
            assert ids(some(other, 64))[-1] == f"1-{stream._n - 1}"
            assert len(following._feed._entries) <= feed.MOST_ENTRIES
        assert not following._feed._entries
        stream.finish()
        seen += list(following)

    assert ids(seen) == ["0-0", "1-0", *(f"1-{n}" for n in range(1, num_chunks + 1)), "1-end"]


def test_a_restart_of_redis_in_mid_stream_is_caught_up_with(
    make_follower: MakeFollower, submitter: Submitter, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with embedded_redis.running(data) as url, connections.commands(url) as redis:
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        stream = Stream.of_new_job(redis, Submitter(redis, submitter.tiers))
        following = make_follower(url).follow(stream.job_id)
        stream.say("3")
        seen = some(following, 3)
    with embedded_redis.running(data, port) as url, connections.commands(url) as redis:
        stream.connection = redis
        stream.say("8", "4")
        stream.finish()
        seen += list(following)
        following.close()

    assert ids(seen) == ["0-0", "1-0", "1-1", "1-2", "1-3", "1-end"]


def test_silence_is_told(
    follower: Follower, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENCE_S", 0.05)
    job = submitter.submit(request(), tier="batch", stream=True)

    with follower.follow(job.id) as following:
        seen = [next(following) for _ in range(3)]

    assert seen[1:] == [Silence(), Silence()]


def test_an_unknown_job_cannot_be_followed_nor_one_that_vanishes(
    follower: Follower, submitter: Submitter, connection: Redis
) -> None:
    with follower.follow("nobody") as following, pytest.raises(UnknownJob):
        next(following)

    job = submitter.submit(request(), tier="batch", stream=True)
    with follower.follow(job.id) as following:
        some(following, 1)
        connection.delete(job.key)
        with pytest.raises(UnknownJob):
            list(following)


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-", "1-2-3", "1-x", "-1-2"])
def test_a_cursor_that_is_none_is_refused(follower: Follower, cursor: str) -> None:
    with pytest.raises(BadCursor):
        follower.follow("job", cursor)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_whoever_is_told_to_stop_stops_at_once(
    make_follower: MakeFollower, redis_url: str, submitter: Submitter, how: str
) -> None:
    follower = make_follower(redis_url)
    job = submitter.submit(request(), tier="batch", stream=True)
    begun = threading.Event()

    with follower.follow(job.id) as following, ThreadPoolExecutor(1) as thread:

        def read() -> list[Event]:
            some(following, 1)
            begun.set()
            return list(following)

        reading = thread.submit(read)
        assert begun.wait(PATIENCE_S)
        following.stop() if how == "stop" else follower._hub.close()

        assert all(isinstance(event, Silence) for event in reading.result(PATIENCE_S))


def test_no_more_may_follow_than_there_is_room_for(
    make_follower: MakeFollower, redis_url: str, submitter: Submitter
) -> None:
    follower = make_follower(redis_url, capacity=1)
    job = submitter.submit(request(), tier="batch", stream=True)

    with follower.follow(job.id), pytest.raises(NoRoomToWait):
        follower.follow(job.id)
    with follower.follow(job.id) as following:
        assert ids(some(following, 1)) == ["0-0"]
