"""Batches under test: their input, their steps by hand, their results, and a worker."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis

from scheduler import finish
from scheduler.batch_advance import Means, Work
from scheduler.batch_keeper import BatchKeeper
from scheduler.batch_record import Batch, BatchOrder, Draft
from scheduler.batch_steps import BatchSteps
from scheduler.batches import Batches
from scheduler.claim import Claim, Claims
from scheduler.files import Files, StoredFile, Upload, new_id
from scheduler.tenants import ANYBODY

COMPLETIONS = "/v1/completions"
TENANT = ANYBODY.name


def line(custom_id: str, **body: Any) -> str:
    request = {"prompt": f"{custom_id}=", "max_tokens": 2, **body}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": COMPLETIONS, "body": request}
    )


def jsonl(lines: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in lines).encode()


def parsed(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in content.splitlines()]


def assert_each_once(ids: Iterable[str | None], *contents: bytes) -> None:
    """Every line of the input stands once in the files, all of them together."""
    found = Counter(entry["custom_id"] for content in contents for entry in parsed(content))
    assert found == Counter(ids)


@dataclass
class Desk:
    """Makes batches and reads what became of them."""

    connection: Redis
    means: Means
    keepers: list[BatchKeeper] = field(default_factory=list)

    def store(self, content: bytes) -> StoredFile:
        upload = Upload(self.connection, 100 << 20)
        upload.write(content)
        return upload.keep(tenant=TENANT, filename="in", purpose="batch", ttl_s=86_400)

    def create(
        self, content: bytes, *, window_s: float = 86_400, tier: str = "batch", now: float = 0.0
    ) -> str:
        source = self.store(content)
        now = now or datetime.now(UTC).timestamp()
        order = BatchOrder(
            tenant=TENANT,
            endpoint=COMPLETIONS,
            input_file_id=source.id,
            input_bytes=source.size,
            completion_window="24h",
            tier=tier,
            created_at=int(now),
            expires_at=int(now + window_s),
            results_ttl_s=86_400,
        )
        batch_id = f"batch_{new_id().removeprefix('file-')}"
        Batches(self.connection).create(batch_id, order, (Draft(new_id()), Draft(new_id())))
        return batch_id

    def batch(self, batch_id: str) -> Batch:
        return Batches(self.connection).fetch(batch_id, TENANT)

    def output(self, batch_id: str) -> bytes:
        return self._content(self.batch(batch_id).progress.output)

    def errors(self, batch_id: str) -> bytes:
        return self._content(self.batch(batch_id).progress.errors)

    def _content(self, draft: Draft) -> bytes:
        if not draft.file_id:
            return b""
        files = Files(self.connection)
        return b"".join(files.content(files.fetch(draft.file_id, TENANT)))

    def cancel(self, batch_id: str) -> None:
        Batches(self.connection).cancel(batch_id, TENANT)

    def num_open(self, batch_id: str) -> int:
        return int(cast(int, self.connection.hlen(f"slalom:batch:{batch_id}:open")))


@dataclass
class QuickWorker:
    """Claims jobs and ends them through the script that ends every job."""

    connection: Redis
    name: str = "quick"
    num_answered: int = 0

    def take(self, count: int) -> list[Claim]:
        return Claims(self.connection, self.name, ["high", "low"], lease_s=30).take(count)

    def answer(self, claims: list[Claim]) -> None:
        now = datetime.now(UTC)
        ended = [finish.Success(c, self._response(c), now, result_ttl=600) for c in claims]
        finish.write(self.connection, self.name, ended)
        self.num_answered += len(claims)

    def serve(self, count: int = 200) -> int:
        """Answer up to `count` jobs; return how many there were."""
        claims = self.take(count)
        self.answer(claims)
        return len(claims)

    def _response(self, claim: Claim) -> dict[str, Any]:
        request = claim.job.args[0]["body"]
        return {
            "id": f"cmpl-{claim.job.id}",
            "object": "text_completion",
            "model": request["model"],
            "choices": [{"index": 0, "text": request["prompt"], "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }


def step(desk: Desk, batch_id: str, work: Work | None = None) -> float | None:
    return BatchSteps(desk.means).step(work or Work(batch_id))


def carry_on(
    desk: Desk, batch_id: str, meanwhile: Callable[[], object], times: int = 2_000
) -> None:
    """Do steps, and something between them, until the batch has ended."""
    work = Work(batch_id)
    for _ in range(times):
        if step(desk, batch_id, work) is None:
            return
        meanwhile()
    raise AssertionError(f"still {desk.batch(batch_id).progress}")


def work_off(desk: Desk, batch_id: str, quick: QuickWorker) -> None:
    carry_on(desk, batch_id, quick.serve)


def until_open(desk: Desk, batch_id: str, count: int) -> Work:
    """Do steps until so many jobs of the batch are open."""
    work = Work(batch_id)
    while desk.num_open(batch_id) < count:
        assert step(desk, batch_id, work) is not None
    return work


def traces(connection: Redis, batch_id: str) -> set[str]:
    """Return the keys that still name the batch or one of its jobs, without its record."""
    found = {
        key.decode() for key in cast(list[bytes], connection.keys("*")) if batch_id.encode() in key
    }
    return found - {f"slalom:batch:{batch_id}"}
