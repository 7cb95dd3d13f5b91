"""The embedded server is a real one: it keeps jobs over its own death."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from config import connections, embedded_redis
from config.settings import Settings
from scheduler import jobs
from scheduler.jobs import Request
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until


def start(directory: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "config.embedded_redis"],
        env={**os.environ, "SLALOM_DATA_DIR": str(directory), "SLALOM_REDIS_PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:  # refused, or still loading its file
        return False


def test_jobs_survive_the_servers_sigkill(tmp_path: Path) -> None:
    port = free_port()
    client = Redis(port=port)
    server = start(tmp_path, port)
    until(lambda: answers(client))
    queue = Queue("low", connection=client, serializer=JSONSerializer)
    job = queue.enqueue("tests.callables.add", 1, 2)
    until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)

    server.send_signal(signal.SIGKILL)
    server.wait()
    again = start(tmp_path, port)
    until(lambda: answers(client))

    assert queue.job_ids == [job.id]
    again.send_signal(signal.SIGTERM)
    assert again.wait() == 0
    client.close()
    for process in (server, again):
        assert process.stderr is not None
        process.stderr.close()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = start(tmp_path, port)
        _, said = shown.communicate()

    assert shown.returncode != 0
    assert f"port {port} is taken" in said
    assert "Traceback" not in said


def test_it_does_not_start_where_redis_url_is_set(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "config.embedded_redis"],
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1", "SLALOM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown.returncode != 0
    assert "REDIS_URL is set" in shown.stderr


def test_the_server_is_where_the_pinned_wheel_keeps_it() -> None:
    assert os.access(embedded_redis.binary(), os.X_OK)


def test_jobs_in_flight_end_once_though_the_server_is_killed_under_them(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    port = free_port()
    client = connections.commands(f"redis://127.0.0.1:{port}/0")
    server = start(tmp_path, port)
    until(lambda: answers(client))
    submitter = Submitter(client, Settings().tiers())
    request = Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": 150})
    ids = [submitter.submit(request, tier="batch").id for _ in range(300)]
    until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    worker = start_worker("low", REDIS_URL=f"redis://127.0.0.1:{port}/0", SLALOM_LEASE_S="2")
    until(lambda: client.zcard("rq:finished:low") > 20)

    server.send_signal(signal.SIGKILL)
    server.wait()
    again = start(tmp_path, port)
    until(lambda: answers(client))

    def ended() -> bool:
        rescue(client, "low", max_deliveries=3)
        return all(jobs.view(jobs.fetch(client, i)).status in jobs.ENDED for i in ids)

    until(ended)
    assert {jobs.view(jobs.fetch(client, i)).status for i in ids} == {"succeeded"}
    assert {len(jobs.fetch(client, i).results()) for i in ids} == {1}
    assert worker.process.poll() is None
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    again.terminate()
    again.wait()
    client.close()
    for process in (server, again):
        assert process.stderr is not None
        process.stderr.close()


def test_a_worker_whose_redis_is_gone_leaves_at_the_second_signal(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    server = start(tmp_path, port)
    with connections.commands(url) as client:
        until(lambda: answers(client))
        submitter = Submitter(client, Settings().tiers())
        request = Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": 150})
        for _ in range(5):
            submitter.submit(request, tier="batch")
        worker = start_worker("low", REDIS_URL=url)
        until(lambda: client.zcard("rq:wip:low") == 5)

    server.kill()
    server.communicate()
    until(lambda: "results wait for Redis" in worker.log)
    worker.signal(signal.SIGTERM)
    until(lambda: "worker draining" in worker.log)
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0, worker.log
    assert "Traceback" not in worker.log
