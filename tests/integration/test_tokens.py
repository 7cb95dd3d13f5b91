"""The chunks of a streamed job reach its log and the channel in order, once, from its owner."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from config import connections, embedded_redis
from gpu_worker import tokens
from gpu_worker.tokens import Tokens
from scheduler import events, keys
from scheduler.claim import Claim
from scheduler.events import Entry, EventId, Piece
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import until
from tests.integration.test_claim import REQUEST, claims_of


def claim_one(connection: Redis, submitter: Submitter, *, stream: bool = True) -> Claim:
    """Return the claim of a job that was just submitted."""
    submitter.submit(REQUEST, tier="batch", stream=stream)
    [claim] = claims_of(connection).take(1)
    return claim


def log_of(connection: Redis, claim: Claim) -> list[tuple[str, str]]:
    """Return ids and bodies of a log; of an attempt's start, "start"."""
    found = connection.xrange(keys.events(claim.job.id))
    pairs = [(event_id.decode(), fields[b"body"].decode()) for event_id, fields in found]
    return [(event_id, "start" if event_id.endswith("-0") else body) for event_id, body in pairs]


def run(play: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(play(), timeout=60)

    asyncio.run(bounded())


def test_a_job_that_is_no_stream_keeps_nothing(connection: Redis, submitter: Submitter) -> None:
    claim = claim_one(connection, submitter, stream=False)

    assert claim.attempt is None
    assert Tokens(connection).begin(claim) is None
    assert not connection.hexists(claim.job.key, "starts")


def test_the_attempts_of_a_stream_only_grow_though_a_release_charges_none(
    connection: Redis, submitter: Submitter
) -> None:
    first = claim_one(connection, submitter)
    claims = claims_of(connection)

    claims.release([first])
    [second] = claims.take(1)

    assert (first.attempt, second.attempt) == (1, 2)
    assert connection.hget(first.job.key, "attempts") == b"1"


def test_who_asks_for_the_tokens_of_a_job_that_failed_once_gets_those_of_its_next_attempt(
    connection: Redis, submitter: Submitter
) -> None:
    claim = claim_one(connection, submitter, stream=False)
    events.ask(connection, claim.job.id)
    connection.zadd(keys.started("low"), {f"{claim.job.id}:{claim.execution_id}": 1})
    connection.hset(f"rq:execution:{claim.job.id}:{claim.execution_id}", "lease_until", 1)
    rescue(connection, "low", max_deliveries=3, grace_s=0)

    [again] = claims_of(connection).take(1)

    assert again.attempt == 2


def test_nothing_is_asked_of_a_job_that_has_ended_or_never_was(
    connection: Redis, submitter: Submitter
) -> None:
    claim = claim_one(connection, submitter, stream=False)
    connection.hset(claim.job.key, "status", "finished")

    events.ask(connection, claim.job.id)
    events.ask(connection, "nobody")

    assert not connection.hexists(claim.job.key, "stream")
    assert not connection.exists("rq:job:nobody")


def test_chunks_are_written_as_they_come_and_told_on_the_channel(
    connection: Redis, submitter: Submitter, redis_url: str
) -> None:
    claim = claim_one(connection, submitter)
    told: list[tuple[str, Entry]] = []

    async def play() -> None:
        with connections.listener(redis_url) as listener, listener.pubsub() as subscription:
            subscription.subscribe(keys.EVENTS)
            subscription.get_message(timeout=10)
            writer = Tokens(connection)
            writing = asyncio.create_task(writer.run())
            keep = writer.begin(claim)
            assert keep
            for n in range(5):
                keep(f'{{"n": "{n}\u2028"}}')
                await asyncio.sleep(tokens.TICK_S / 2)
            while len(told) < 6:
                message = subscription.get_message(ignore_subscribe_messages=True)
                told.extend(events.told(message["data"]) if message else [])
                await asyncio.sleep(0.001)
            writing.cancel()

    run(play)

    log = log_of(connection, claim)
    assert [event_id for event_id, _ in log] == [f"1-{n}" for n in range(6)]
    assert log[1:] == [(f"1-{n + 1}", f'{{"n": "{n}\u2028"}}') for n in range(5)]
    assert {job_id for job_id, _ in told} == {claim.job.id}
    assert [(str(e.id), e.body) for _, e in told][1:] == log[1:]
    assert 0 < connection.ttl(keys.events(claim.job.id)) <= events.RUNNING_TTL_S


def test_what_is_left_is_written_before_the_end_and_expires_with_the_job(
    connection: Redis, submitter: Submitter
) -> None:
    claim = claim_one(connection, submitter)
    other = claim_one(connection, submitter)

    async def play() -> None:
        writer = Tokens(connection)
        for each in (claim, other):
            keep = writer.begin(each)
            assert keep
            keep("{}")

        writer.end([(claim, events.kept_s(600))])

        assert log_of(connection, claim) == [("1-0", "start"), ("1-1", "{}")]
        assert log_of(connection, other) == []
        assert connection.ttl(keys.events(claim.job.id)) == 660
        writer.end([(claim, events.kept_s(-1))])
        assert connection.ttl(keys.events(claim.job.id)) == -1

    run(play)


def test_who_lost_the_lease_writes_nothing_more(connection: Redis, submitter: Submitter) -> None:
    claim = claim_one(connection, submitter)

    async def play() -> None:
        writer = Tokens(connection)
        keep = writer.begin(claim)
        assert keep
        keep('"first"')
        writer.end([(claim, 60)])
        claims_of(connection).release([claim])

        keep('"late"')
        writer.end([(claim, 5)])
        keep('"later"')

        assert writer.num_waiting_bytes == 0
        assert [body for _, body in log_of(connection, claim)] == ["start", '"first"']
        assert connection.ttl(keys.events(claim.job.id)) > 5

    run(play)


def test_what_was_written_and_not_confirmed_is_not_written_twice(
    connection: Redis, submitter: Submitter
) -> None:
    claim = claim_one(connection, submitter)
    piece = Piece(claim, [(0, "now"), (1, "{}")])

    assert events.append(connection, [piece]) == ["held"]
    assert events.append(connection, [piece, Piece(claim, [(2, "{}")])]) == ["held", "held"]

    assert [event_id for event_id, _ in log_of(connection, claim)] == ["1-0", "1-1", "1-2"]


def test_a_log_that_is_no_log_harms_nobody_else(connection: Redis, submitter: Submitter) -> None:
    spoilt, sound = claim_one(connection, submitter), claim_one(connection, submitter)
    connection.set(keys.events(spoilt.job.id), "something else")

    verdicts = events.append(
        connection, [Piece(spoilt, [(1, "{}"), (2, "{}")], 60), Piece(sound, [(1, "{}")])]
    )

    assert verdicts == ["lost", "held"]
    assert log_of(connection, sound) == [("1-1", "{}")]


def test_an_output_without_bounds_leaves_a_gap(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MOST_CHUNKS", 3)
    claim = claim_one(connection, submitter)

    async def play() -> None:
        writer = Tokens(connection)
        keep = writer.begin(claim)
        assert keep
        for _ in range(3):
            keep("{}")
        writer.end([(claim, 60)])
        for _ in range(10):
            keep("{}")
        writer.end([(claim, 60)])

    run(play)

    assert log_of(connection, claim)[-2:] == [("1-3", "{}"), ("1-4", events.GAP)]


def test_without_redis_what_waits_is_bounded_and_its_loss_is_written_down(
    connection: Redis,
    submitter: Submitter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tokens, "MOST_WAITING_BYTES", 1000)
    old, young = claim_one(connection, submitter), claim_one(connection, submitter)
    with embedded_redis.running(tmp_path / "gone") as url:
        away = connections.commands(url)

    async def play() -> None:
        writer = Tokens(away)
        keeps = [writer.begin(claim) for claim in (old, young)]
        for _ in range(9):
            for keep in keeps:
                assert keep
                keep('"' + 100 * "x" + '"')
        with pytest.raises(RedisConnectionError):
            writer.end([(old, 60), (young, 60)])
        assert writer.num_waiting_bytes <= 1000

        writer._connection = connection  # it is back
        writer.end([(old, 60), (young, 60)])
        assert writer.num_waiting_bytes == 0

    with caplog.at_level(logging.WARNING):
        run(play)

    assert log_of(connection, old)[-1][1] == events.GAP
    assert len(log_of(connection, young)) == 10
    [dropped] = [r for r in caplog.records if getattr(r, "event", "") == "tokens.dropped"]
    assert vars(dropped)["job_id"] == old.job.id


def test_what_redis_may_have_taken_is_never_where_a_gap_is_put(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claim_one(connection, submitter)
    monkeypatch.setattr(tokens, "MOST_WAITING_BYTES", 100)
    lost_reply = threading.Event()

    def append(to: Redis, pieces: list[Piece]) -> object:
        verdicts = events.append(to, pieces)
        if not lost_reply.is_set():
            lost_reply.set()
            raise RedisConnectionError
        return verdicts

    monkeypatch.setattr(tokens, "append", append)

    async def play() -> None:
        writer = Tokens(connection)
        keep = writer.begin(claim)
        assert keep
        keep('"taken"')
        with pytest.raises(RedisConnectionError):
            writer.end([(claim, 60)])
        keep('"' + 200 * "x" + '"')
        writer.end([(claim, 60)])

    run(play)

    assert log_of(connection, claim) == [("1-0", "start"), ("1-1", '"taken"'), ("1-2", events.GAP)]


def test_a_worker_waits_for_redis_and_writes_all_of_it_then(
    tmp_path: Path, submitter: Submitter
) -> None:
    data, port = tmp_path / "data", 0
    written: list[list[tuple[str, str]]] = []

    async def play() -> None:
        nonlocal port
        with embedded_redis.running(data) as url:
            port = int(url.rsplit(":", 1)[1].partition("/")[0])
            redis = connections.commands(url)
            claim = claim_one(redis, Submitter(redis, submitter.tiers))
            writer = Tokens(redis)
            writing = asyncio.create_task(writer.run())
            keep = writer.begin(claim)
            assert keep
            keep('"before"')
            await asyncio.to_thread(until, lambda: len(log_of(redis, claim)) == 2)
        keep('"meanwhile"')
        await asyncio.sleep(5 * tokens.TICK_S)
        with embedded_redis.running(data, port):
            await asyncio.to_thread(until, lambda: len(log_of(redis, claim)) == 3)
            written.append(log_of(redis, claim))
            writing.cancel()
            redis.close()

    run(play)

    assert written == [[("1-0", "start"), ("1-1", '"before"'), ("1-2", '"meanwhile"')]]


@pytest.mark.parametrize(
    "text", ["", "1", "-", "1-", "-1", "a-1", "1-x", "1-ended", "٣-1", "1-1-1"]
)
def test_what_is_no_event_id_is_said_to_be_none(text: str) -> None:
    with pytest.raises(events.BadEventId):
        EventId.parse(text)


def test_event_ids_stand_in_the_order_of_what_happened() -> None:
    texts = ["0-0", "0-end", "1-0", "1-1", "1-10", "1-end", "2-0", "10-3"]
    ids = [EventId.parse(text) for text in texts]

    assert [str(event_id) for event_id in sorted({*ids})] == texts
    followed = {(a, b) for a in texts for b in texts if _follows(b, a)}
    assert followed >= {("1-0", "1-1"), ("1-10", "2-0"), ("0-0", "1-0")}
    assert not followed & {("1-1", "1-10"), ("1-1", "10-3"), ("1-1", "1-1")}


def _follows(text: str, before: str) -> bool:
    return EventId.parse(text).is_next_after(EventId.parse(before))
