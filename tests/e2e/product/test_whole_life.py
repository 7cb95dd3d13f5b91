"""The product from outside: HTTP in, answers out, whatever is killed in between."""

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from models.sums import held_out_sums
from scheduler.autoscaler.local_pool import worker_command
from tests.conftest import until
from tests.e2e.conftest import Product
from tests.openai_sdk import sdk

pytestmark = pytest.mark.vllm


def rq(product: Product, *arguments: str) -> str:
    """Run RQ's own command line on the product's Redis."""
    command = [worker_command()[0], *arguments, "-c", "config.rq"]
    done = subprocess.run(
        command,
        env={**os.environ, **product.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def answer(job: dict[str, Any]) -> str:
    return str(job["output"]["text"])


def test_200_sums_of_mixed_tiers_are_each_answered_rightly_the_high_ones_first(
    product: Product,
) -> None:
    sums = held_out_sums(200)
    tiers = [("batch", "standard", "premium")[n % 3] for n in range(200)]
    rq(product, "suspend")

    def submit(n: int) -> str:
        return product.submit(f"{sums[n][0]}+{sums[n][1]}=", tiers[n])

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(submit, range(200)))
    rq(product, "resume")
    ended = product.ended(ids)

    assert [answer(job) for job in ended] == [str(a + b) for a, b in sums]
    assert [job["tier"] for job in ended] == tiers
    starts = {
        queue: [job["started_at"] for job in ended if job["queue"] == queue]
        for queue in ("high", "low")
    }
    assert max(starts["high"]) <= min(starts["low"])
    assert len(set(starts["low"] + starts["high"])) < 50, "claims come in batches"
    for job in ended:
        order = ["created_at", "queued_at", "started_at", "first_token_at", "finished_at"]
        assert [job[name] for name in order] == sorted(job[name] for name in order)
        assert job["usage"]["completion_tokens"] > 0


def test_a_caller_that_waits_gets_the_answer_at_once(product: Product) -> None:
    body = {"prompt": "128+256=", "tier": "premium", "max_tokens": 8, "temperature": 0}

    reply = product.call("POST", "/v1/jobs", body, Prefer="wait=30")

    assert reply.status == 200
    assert answer(reply.body) == "384"
    assert reply.body["output"]["finish_reason"] == "stop"


def test_a_chat_goes_through_the_models_own_template(product: Product) -> None:
    body = {"messages": [{"role": "user", "content": "77 + 5"}], "tier": "batch"}

    reply = product.call("POST", "/v1/jobs", body, Prefer="wait=30")

    assert answer(reply.body) == "82"


def test_rqs_own_tools_tell_the_truth(product: Product) -> None:
    [job] = product.ended([product.submit("1+2=", "batch")])

    shown = rq(product, "info")
    with product.redis() as connection:
        fetched = Job.fetch(job["id"], connection=connection, serializer=JSONSerializer)
        value = fetched.return_value()
        assert "high" in shown
        assert value["choices"][0]["text"] == "3"
        [result] = fetched.results()
        assert result.worker_name in shown


def test_a_waiting_job_is_cancelled_and_never_runs(product: Product) -> None:
    rq(product, "suspend")
    job_id = product.submit("5+5=", "batch")

    reply = product.call("DELETE", f"/v1/jobs/{job_id}")
    rq(product, "resume")
    after = product.ended([product.submit("6+6=", "batch")])

    assert reply.status == 200
    assert reply.body["status"] == "canceled"
    assert answer(after[0]) == "12"
    assert product.job(job_id)["started_at"] is None


def test_running_jobs_are_aborted_and_free_their_seats(product: Product) -> None:
    rq(product, "suspend")
    ids = [product.submit(f"{n}+1=", "batch", max_tokens=240, ignore_eos=True) for n in range(300)]
    rq(product, "resume")
    with product.redis() as connection:
        until(lambda: connection.zcard("rq:wip:low") > 0)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda job_id: product.call("DELETE", f"/v1/jobs/{job_id}"), ids))

    by_status = {reply.status: reply.body for reply in replies}
    assert by_status[202]["stopping"] is True
    assert set(by_status) <= {200, 202, 409}
    ended = product.ended(ids)
    aborted = [job for job in ended if job["status"] == "canceled" and job["started_at"]]
    assert aborted
    assert {job["output"]["finish_reason"] for job in aborted if job["output"]} == {"abort"}
    with product.redis() as connection:
        until(lambda: connection.zcard("rq:wip:low") == 0)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "JSON"),
        ({"tier": "premium"}, 422, "prompt"),
        ({"prompt": "1+1=", "tier": "gold"}, 422, "tier"),
        ({"prompt": "1+1=", "max_tokens": "8"}, 422, "max_tokens"),
        ({"prompt": "1+1=", "colour": "red"}, 422, "colour"),
        ({"prompt": "1+" * 300, "tier": "batch"}, 422, "prompt"),
        ({"prompt": "x" * (2 << 20)}, 413, ""),
    ],
    ids=["json", "no prompt", "tier", "type", "unknown", "too long", "too large"],
)
def test_bad_input_is_refused_with_the_field_named(
    product: Product, body: object, status: int, said: str
) -> None:
    reply = product.call("POST", "/v1/jobs", body)

    assert reply.status == status
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert said in str(reply.body)
    assert "Traceback" not in str(reply.body)


def test_what_is_bad_only_for_the_model_fails_alone(product: Product) -> None:
    good = [product.submit(f"{n}+{n}=", "batch") for n in range(10)]
    unfit = {"messages": [{"role": "system", "content": "no user"}], "tier": "batch"}
    bad = product.call("POST", "/v1/jobs", unfit).body["id"]

    ended = product.ended([*good, bad])

    assert [answer(job) for job in ended[:-1]] == [str(2 * n) for n in range(10)]
    assert ended[-1]["status"] == "failed"
    assert ended[-1]["error"]["code"] == "invalid_request"
    assert "user message" in ended[-1]["error"]["message"]


@pytest.mark.slow
def test_every_job_ends_and_a_stream_goes_on_though_the_worker_is_killed_under_them(
    product: Product,
) -> None:
    lasting = {"max_tokens": 40, "ignore_eos": True, "start_within_s": 3600}
    _, undisturbed = told(product, threading.Event())
    ids = [product.submit(f"{n}+1=", ("batch", "premium")[n % 2], **lasting) for n in range(600)]
    has_begun = threading.Event()
    with product.redis() as connection, ThreadPoolExecutor(1) as thread:
        stream = thread.submit(told, product, has_begun)
        until(has_begun.is_set)
        victims = [worker.pid for worker in Worker.all(connection=connection)]

        for pid in victims:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        ended = product.ended(ids)
        job_id, text = stream.result()
        starts = connection.hget(f"rq:job:{job_id}", "starts")

    assert {job["status"] for job in ended} == {"succeeded"}
    assert text == undisturbed
    assert int(starts) > 1, "the kill came too late for the stream"
    with product.redis() as connection:
        for queue in ("high", "low"):
            assert Queue(queue, connection=connection).count == 0
            assert connection.zcard(f"rq:wip:{queue}") == 0


def told(product: Product, has_begun: threading.Event) -> tuple[str, str]:
    """Return the id and the text of a job that is streamed."""
    with sdk("sync", product.port) as ask:
        chunks = []
        for chunk in ask.client.completions.create(
            model="adder",
            prompt="12+34=",
            max_tokens=200,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True, "service_tier": "priority"},
        ):
            chunks.append(chunk)
            has_begun.set()
    texts = [choice.text for chunk in chunks for choice in chunk.choices]
    return chunks[0].id.removeprefix("cmpl-"), "".join(texts)


@pytest.mark.slow
def test_jobs_outlive_the_server_that_keeps_them(product: Product) -> None:
    rq(product, "suspend")
    ids = [product.submit(f"{n}+3=", "batch") for n in range(20)]
    with product.redis() as connection:
        until(lambda: connection.info("persistence")["aof_pending_bio_fsync"] == 0)
        pid = int(connection.info("server")["process_id"])

    os.kill(pid, signal.SIGKILL)
    until(lambda: redis_answers(product))
    rq(product, "resume")

    assert [answer(job) for job in product.ended(ids)] == [str(n + 3) for n in range(20)]


def redis_answers(product: Product) -> bool:
    try:
        with product.redis() as connection:
            return bool(connection.ping())
    except Exception:
        return False


@pytest.mark.browser
def test_the_dashboard_shows_a_finished_job_in_a_browser(product: Product, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.provision_browser import find

    [job] = product.ended([product.submit("40+2=", "premium")])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        failed: list[str] = []
        page.on("response", lambda r: failed.append(r.url) if r.status >= 500 else None)

        page.goto(f"{product.dashboard}/")
        page.get_by_text("high", exact=True).first.wait_for()
        page.goto(f"{product.dashboard}/0/view/job/{job['id']}")
        page.get_by_text("premium /v1/completions").first.wait_for()
        page.get_by_text("finished").first.wait_for()
        page.screenshot(path=str(tmp_path / "job.png"))

        assert "42" in page.content()
        assert failed == []
        browser.close()


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_exits_cleanly(product: Product) -> None:
    family = psutil.Process(product.process.pid).children(recursive=True)
    assert len(family) >= 6

    product.process.send_signal(signal.SIGINT)

    assert product.process.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    with pytest.raises(OSError, match="refused"):
        product.call("GET", "/healthz")
