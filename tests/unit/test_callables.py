"""Callables: a job's function is found and called, whatever becomes of the job."""

import asyncio
import threading
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from gpu_worker.callables import Callables
from gpu_worker.threads import Threads

ENTERED, GO = threading.Semaphore(0), threading.Event()
SLOW = f"""
import time
from {__name__} import ENTERED, GO
ENTERED.release()
while not GO.is_set():
    time.sleep(0.001)
def answer():
    return 42
"""


def test_cancelling_a_job_leaves_the_import_of_its_module_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slowly_imported.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    callables = Callables(Threads(2))

    async def called() -> int:
        job = Job.create(
            "slowly_imported.answer", connection=Redis(), serializer=JSONSerializer, meta={}
        )
        answer: int = await callables.call(job)
        return answer

    async def play() -> int:
        first = asyncio.create_task(called())
        await asyncio.to_thread(ENTERED.acquire)
        second = asyncio.create_task(called())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        GO.set()
        return await second

    assert asyncio.run(play()) == 42
    assert not ENTERED.acquire(blocking=False), "imported once more"
