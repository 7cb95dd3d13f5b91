"""The `slalom` command when its reader, its user or its server goes."""

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from scheduler import keys
from tests.conftest import StartWorker, until
from tests.integration.slalom_command import (
    COMMAND,
    ended,
    environment,
    free_port,
    slalom,
    started,
    web,
)
from tests.integration.slalom_site import ANSWER, EIGHT, Site


def test_a_reader_that_has_seen_enough_ends_it_quietly(site: Site) -> None:
    lines = "\n".join('{"prompt": "1+1="}' for _ in range(2_000))
    command = subprocess.list2cmdline([*COMMAND, "submit", "--json", "--jsonl", "-"])

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
        input=lines.encode(),
        capture_output=True,
        env=environment(site.url),
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["line"] == 1


def test_output_that_cannot_be_written_is_said(site: Site) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "queues"], stdout=full, stderr=subprocess.PIPE, env=environment(site.url)
        )

    assert done.returncode == 2
    assert done.stderr == b"slalom: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_ctrl_c_ends_the_waiting_and_leaves_the_job(site: Site, command: str) -> None:
    site.pause()
    job_id = site.submitted()
    with started(site.url, command, job_id, "--json") as process:
        until(lambda: connected(process))
        process.send_signal(signal.SIGINT)
        done = ended(process)

    assert done.status == 130
    assert done.err == f"slalom: interrupted; the job goes on: slalom wait {job_id}\n"
    assert site("show", job_id, "--json").json["status"] == "queued"


def test_ctrl_c_while_input_is_awaited_ends_it_at_once(site: Site) -> None:
    with started(site.url, "submit", "--jsonl", "-", "--wait") as process:
        assert process.stdin
        site.pause()
        waiting = site.connection.llen(keys.queue("low"))
        process.stdin.write('{"prompt": "1+1="}\n')
        process.stdin.flush()
        until(lambda: site.connection.llen(keys.queue("low")) > waiting)

        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130


def test_a_stream_is_written_before_it_ends(site: Site) -> None:
    with started(site.url, "submit", "1+1=", "--stream", "--max-tokens", "4000") as process:
        assert process.stdout
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        done = ended(process)

    assert first == ANSWER[0]
    assert done.status == 130
    assert "interrupted; the job goes on: slalom wait " in done.err
    job_id = done.err.split()[-1]
    assert site("show", job_id, "--json").json["status"] == "running"
    told = site("cancel", job_id)
    assert told.out in {f"{job_id}  stopping\n", f"{job_id}  canceled\n"}  # a worker may be quick
    assert site("wait", job_id).status == 1
    assert site("show", job_id, "--json").json["status"] == "canceled"


def test_a_watch_outlives_a_restart_of_the_server(
    redis_url: str, start_worker: StartWorker
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with web(redis_url, port) as server:
        job_id = slalom(url, "submit", "1+1=", *EIGHT).out.strip()
        with started(url, "watch", job_id, "--json") as process:
            assert status_of(process) == "queued"
            server.terminate()
            server.wait()
            with web(redis_url, port):
                start_worker()
                done = ended(process)

    assert done.status == 0
    assert done.jsons[-1]["data"]["output"]["text"] == ANSWER


def test_a_server_that_stays_away_ends_the_watch_and_leaves_the_job(redis_url: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with web(redis_url, port) as server:
        job_id = slalom(url, "submit", "1+1=").out.strip()
        with started(url, "watch", job_id, "--json", "--patience", "1") as process:
            assert status_of(process) == "queued"
            server.terminate()
            done = ended(process)

    assert done.status == 3
    assert done.err.endswith(f"slalom: the job goes on: slalom wait {job_id}\n")
    assert done.jsons[-1]["error"]["code"] == "unreachable"


def status_of(process: subprocess.Popen[str]) -> str:
    """Return the status in the next line that a watch writes."""
    assert process.stdout
    return str(json.loads(process.stdout.readline())["data"]["status"])


def connected(process: subprocess.Popen[str]) -> bool:
    """Whether a command talks to a server."""
    connections = psutil.Process(process.pid).net_connections("tcp")
    return any(connection.status == "ESTABLISHED" for connection in connections)
