"""The dashboard in a browser: its scripts run, nobody else's do, and its buttons work."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from redis import Redis
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from config import connections
from config.settings import ROOT
from scheduler.submit import Submitter
from tests.provision_browser import find

BROWSER = find()
ATTACK = "<img src=x onerror='window.attacked=1'>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER and os.environ.get("CI") != "true", reason="no Chromium here"),
]


@pytest.fixture
def url(redis_url: str) -> Iterator[str]:
    """URL of a dashboard as the Procfile serves it."""
    config = str(ROOT / "config" / "gunicorn.py")
    command = [sys.executable, "-m", "gunicorn", "-c", config, "--bind", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*command, "api.dashboard:create_app()"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    with server, ThreadPoolExecutor(1) as drain:
        found = (re.search(r"Listening at: (http://\S+)", line) for line in server.stderr)
        address = next((match[1] for match in found if match), None)
        assert address, "gunicorn did not start"
        drain.submit(server.stderr.read)
        yield address
        server.terminate()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser.new_page()
        browser.close()


def dead_letter(submitter: Submitter) -> Job:
    """Return a failed job whose every text is an attack."""
    request: Any = {"endpoint": "/v1/completions", "body": {"model": "adder", "prompt": ATTACK}}
    job = submitter.submit(request, tier="standard", metadata={"note": ATTACK})
    job.connection.lrem("rq:queue:low", 0, job.id)
    job.description = ATTACK
    job.save()
    job.set_status(JobStatus.FAILED)
    job.failed_job_registry.add(job, ttl=600)
    Result.create_failure(job, ttl=600, exc_string=ATTACK)
    return job


def test_pages_show_what_callers_wrote_as_text(
    url: str, page: Page, submitter: Submitter, redis_url: str
) -> None:
    job = dead_letter(submitter)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    with connections.listener(redis_url) as listener:
        worker = Worker(["low"], name="worker", connection=listener, serializer=JSONSerializer)
        worker.register_birth()
        worker.set_current_job_id(job.id)
        for path, shown in {
            "/": "low",
            "/0/view/workers": ATTACK,
            "/0/view/jobs/low/failed/8/asc/1": ATTACK,
            f"/0/view/job/{job.id}": "Exception Info",
        }.items():
            page.goto(url + path)
            expect(page.locator("body")).to_contain_text(shown)
            assert page.evaluate("window.attacked") is None
    expect(page.locator("#job-data")).to_contain_text(ATTACK)

    assert complaints == []


def test_the_requeue_button_puts_a_dead_letter_back(
    url: str, page: Page, submitter: Submitter, connection: Redis
) -> None:
    job = dead_letter(submitter)
    page.goto(f"{url}/0/view/job/{job.id}")

    with page.expect_response(f"{url}/job/{job.id}/requeue") as answer:
        page.locator("#requeue-job-btn").click()

    assert answer.value.status == 200
    assert connection.lrange("rq:queue:low", 0, -1) == [job.id.encode()]
