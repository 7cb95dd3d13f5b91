"""Batches with the unmodified `openai` SDK, against real processes that are killed at will.

gunicorn serves the API, one or two maintenance processes work the batches off, and a worker with
the simulated engine answers. A failure prints its seed; another one by hand:

    BATCH_SEED=7 make test ARGS='-s -k batches'
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from openai.types import Batch
from redis import Redis

from config import connections
from scheduler import keys
from tests.batch_life import QuickWorker, assert_each_once, jsonl, line, parsed
from tests.conftest import StartWorker, until
from tests.integration.test_api_processes import serving

PATIENCE_S = 300.0
ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass
class Service:
    """Web, maintenance and worker processes on one Redis, and a client of theirs."""

    redis_url: str
    directory: Path
    client: OpenAI
    connection: Redis
    keepers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_maintenance(self, **environment: str) -> None:
        log = self.directory / f"maintenance-{len(self.keepers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.maintenance"],
                env={**os.environ, "REDIS_URL": self.redis_url, **environment},
                stdout=output,
                stderr=output,
            )
        self.keepers.append(process)
        until(lambda: b"maintenance started" in log.read_bytes())

    def create(self, content: bytes, **order: Any) -> Batch:
        source = self.client.files.create(file=("in.jsonl", content), purpose="batch")
        terms: dict[str, Any] = {"completion_window": "24h", **order}
        return self.client.batches.create(
            input_file_id=source.id, endpoint="/v1/completions", **terms
        )

    def ended(self, batch: Batch) -> Batch:
        """Return the batch once it has ended."""
        until(lambda: self.connection.zscore(keys.BATCHES, batch.id) is None, PATIENCE_S)
        found = self.client.batches.retrieve(batch.id)
        assert found.status in ENDED
        return found

    def until_done(self, batch: Batch, count: int) -> None:
        until(lambda: self.num_done(batch) >= count, PATIENCE_S)

    def num_done(self, batch: Batch) -> int:
        counts = self.client.batches.retrieve(batch.id).request_counts
        assert counts
        return counts.completed + counts.failed

    def content(self, file_id: str | None) -> bytes:
        return self.client.files.content(file_id).read() if file_id else b""

    def assert_nothing_left(self) -> None:
        """No job, no list and no part of a batch but its record is in Redis any more."""
        assert self.connection.keys("rq:job:*") == self.connection.keys("rq:results:*") == []
        parts = [f"slalom:batch:*:{part}" for part in ("open", "doubled", "out", "err")]
        assert [key for pattern in parts for key in self.connection.keys(pattern)] == []
        for registry in ("queue", "wip", "finished", "failed", "canceled", "scheduled"):
            assert self.connection.exists(f"rq:{registry}:low") == 0, registry


@contextmanager
def served(redis_url: str, directory: Path, **environment: str) -> Iterator[Service]:
    with ExitStack() as stack:
        _, port = stack.enter_context(serving(redis_url, SLALOM_ENGINE="sim", **environment))
        client = stack.enter_context(
            OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        )
        connection = stack.enter_context(connections.commands(redis_url))
        service = Service(redis_url, directory, client, connection)
        try:
            yield service
        finally:
            for process in service.keepers:
                process.kill()
                process.wait()


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[Service]:
    with served(redis_url, tmp_path) as service:
        yield service


@pytest.fixture
def random() -> Random:
    seed = int(os.environ.get("BATCH_SEED", time.time_ns() % 1_000_000))
    sys.stdout.write(f"BATCH_SEED={seed}\n")
    return Random(seed)


@pytest.mark.slow
def test_the_whole_life_of_a_batch(service: Service, start_worker: StartWorker) -> None:
    ids = [f"line-{n}" for n in range(3_000)]
    bad = ["no JSON", line("line-7"), line("streamed", stream=True)]
    service.start_maintenance()
    start_worker("low")

    batch = service.create(jsonl([*map(line, ids), *bad]), metadata={"project": "night"})
    assert batch.status == "validating"
    until(lambda: service.num_done(batch) > 100, PATIENCE_S)
    ended = service.ended(batch)

    assert (ended.status, ended.model, ended.metadata) == (
        "completed",
        "adder",
        {"project": "night"},
    )
    counts = ended.request_counts
    assert counts
    assert (counts.total, counts.completed, counts.failed) == (3_003, 3_000, 3)
    assert ended.usage
    assert ended.usage.output_tokens == 6_000
    instants = [ended.created_at, ended.in_progress_at, ended.finalizing_at, ended.completed_at]
    assert instants == sorted(cast(list[int], instants))
    output, errors = service.content(ended.output_file_id), service.content(ended.error_file_id)
    assert_each_once(ids, output)
    for entry in parsed(output):
        body = entry["response"]["body"]
        assert (body["object"], body["usage"]["completion_tokens"]) == ("text_completion", 2)
        assert entry["response"]["request_id"] in body["id"]
    codes = [entry["response"]["body"]["error"]["code"] for entry in parsed(errors)]
    assert codes == ["invalid_json_line", "duplicate_custom_id", "invalid_stream"]
    service.assert_nothing_left()
    service.keepers[0].terminate()
    assert service.keepers[0].wait() == 0


def test_files_and_batches_are_listed_page_by_page_and_deleted(service: Service) -> None:
    made = [service.create(b"{}\n") for _ in range(5)]
    client = service.client

    batches = [batch.id for batch in client.batches.list(limit=2)]
    files = [file.id for file in client.files.list(limit=2, order="asc")]

    assert batches == [batch.id for batch in made[::-1]]
    assert files == [batch.input_file_id for batch in made]
    assert client.files.delete(files[0]).deleted
    with pytest.raises(NotFoundError) as missing:
        client.files.retrieve(files[0])
    assert missing.value.code == "file_not_found"
    with pytest.raises(NotFoundError):
        client.batches.cancel("batch_none")


def test_a_file_over_the_limit_is_refused_with_413(redis_url: str, tmp_path: Path) -> None:
    with served(redis_url, tmp_path, SLALOM_MAX_FILE_BYTES="65536") as service:
        for size in (65_537, 1 << 17, 8 << 20):
            with pytest.raises(APIStatusError) as refused:
                service.client.files.create(file=("f", b"x" * size), purpose="batch")
            assert refused.value.status_code == 413
        assert service.client.files.create(file=("f", b"x" * 65_536), purpose="batch").id


@pytest.mark.slow
def test_no_line_is_lost_or_doubled_whenever_maintenance_is_killed(
    service: Service, start_worker: StartWorker, random: Random
) -> None:
    ids = [f"line-{n}" for n in range(2_000)]
    patient = {"SLALOM_LEASE_S": "1", "SLALOM_MAX_DELIVERIES": "1000"}
    for _ in range(2):
        service.start_maintenance(**patient)
    worker = start_worker("low", **patient)
    batch = service.create(jsonl(map(line, [*ids, "line-3"])))

    for at in sorted(random.sample(range(1_500), 8)):
        service.until_done(batch, at)
        time.sleep(random.uniform(0, 0.05))
        victim = random.choice(service.keepers[-2:])
        service.keepers.remove(victim)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        service.start_maintenance(**patient)
        if random.random() < 0.3:
            worker.signal(signal.SIGKILL)
            worker.wait()
            worker = start_worker("low", **patient)
    ended = service.ended(batch)

    assert ended.status == "completed"
    output, errors = service.content(ended.output_file_id), service.content(ended.error_file_id)
    assert_each_once(ids, output)
    assert_each_once(["line-3"], errors)
    service.assert_nothing_left()


@pytest.mark.slow
def test_a_cancelled_batch_keeps_what_is_done(service: Service, start_worker: StartWorker) -> None:
    ids = [f"line-{n}" for n in range(2_000)]
    service.start_maintenance(SLALOM_BATCH_AHEAD="200")
    start_worker("low", SLALOM_MAX_INFLIGHT="16")
    tokens = [3_000 if n % 40 == 0 else 2 for n in range(len(ids))]
    content = [line(i, max_tokens=most) for i, most in zip(ids, tokens, strict=True)]
    batch = service.create(jsonl(content))
    until(lambda: service.num_done(batch) > 100, PATIENCE_S)

    assert service.client.batches.cancel(batch.id).status == "cancelling"
    ended = service.ended(batch)

    counts = ended.request_counts
    assert counts
    assert (ended.status, counts.total) == ("cancelled", 2_000)
    assert counts.completed > 0
    assert counts.failed > 0
    output, errors = service.content(ended.output_file_id), service.content(ended.error_file_id)
    assert_each_once(ids, output, errors)
    assert len(parsed(output)) == counts.completed
    assert {entry["error"]["code"] for entry in parsed(errors)} == {"batch_cancelled"}
    service.assert_nothing_left()


@pytest.mark.slow
def test_a_batch_that_takes_too_long_expires_with_what_is_done(
    service: Service, start_worker: StartWorker
) -> None:
    ids = [f"line-{n}" for n in range(3_000)]
    service.start_maintenance(SLALOM_BATCH_AHEAD="50")
    start_worker("low", SLALOM_LEASE_S="1", SLALOM_MAX_INFLIGHT="4")
    tokens = [2 if n < 20 else 500 for n in range(len(ids))]
    content = [line(i, max_tokens=most) for i, most in zip(ids, tokens, strict=True)]

    ended = service.ended(service.create(jsonl(content), completion_window="10s"))

    counts = ended.request_counts
    assert counts
    assert (ended.status, counts.total) == ("expired", 3_000)
    assert counts.completed > 0
    output, errors = service.content(ended.output_file_id), service.content(ended.error_file_id)
    assert_each_once(ids, output, errors)
    assert {entry["error"]["code"] for entry in parsed(errors)} == {"batch_expired"}
    service.assert_nothing_left()


@pytest.mark.slow
def test_50000_lines_each_once_through_the_script_that_ends_every_job(service: Service) -> None:
    ids = [f"line-{n}" for n in range(50_000)]
    service.start_maintenance()
    worker, stop = QuickWorker(connections.commands(service.redis_url)), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if worker.serve(500) < 300:
                stop.wait(0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        batch = service.create(jsonl(map(line, ids)))
        ended = service.ended(batch)
    finally:
        stop.set()
        thread.join()

    counts = ended.request_counts
    assert counts
    assert (ended.status, counts.completed, counts.failed) == ("completed", 50_000, 0)
    assert worker.num_answered == 50_000
    assert_each_once(ids, service.content(ended.output_file_id))
    service.assert_nothing_left()
