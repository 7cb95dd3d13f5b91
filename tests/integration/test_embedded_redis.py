"""The embedded server is a real one: it keeps jobs over its own death."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from config import embedded_redis
from tests.conftest import until


def start(directory: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "config.embedded_redis"],
        env={**os.environ, "SLALOM_DATA_DIR": str(directory), "SLALOM_REDIS_PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False
    except Exception as error:
        return "loading" not in str(error).lower() and False


def test_jobs_survive_the_servers_sigkill(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
