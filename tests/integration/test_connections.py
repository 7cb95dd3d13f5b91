"""Every process reaches a server behind a password and TLS, given by REDIS_URL alone."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from config import connections
from scheduler import jobs
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_worker import SHORT, all_ended


@pytest.fixture
def password(connection: Redis) -> Iterator[str]:
    """Let the server ask for a password while the test lasts."""
    connection.config_set("requirepass", "hush")
    yield "hush"
    connection.auth("hush")
    connection.config_set("requirepass", "")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a key and a self-signed certificate for 127.0.0.1."""
    path = tmp_path / "server.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    subprocess.run([*command, "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


@pytest.fixture
def tls_port(certificate: Path, redis_url: str) -> Iterator[int]:
    """Serve the test's Redis behind TLS; the embedded server itself has none."""
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context, port), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        upstream = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_pump, args=(client, context, upstream), daemon=True).start()


def _pump(raw: socket.socket, context: ssl.SSLContext, upstream: socket.socket) -> None:
    try:
        client = context.wrap_socket(raw, server_side=True)
    except OSError:
        upstream.close()
        return
    for source, sink in ((client, upstream), (upstream, client)):
        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            end.close()


def test_a_job_runs_behind_tls_and_a_password(
    connection: Redis,
    password: str,
    tls_port: int,
    certificate: Path,
    submitter: Submitter,
    start_worker: StartWorker,
) -> None:
    url = f"rediss://:{password}@127.0.0.1:{tls_port}/7?ssl_ca_certs={certificate}"

    with connections.commands(url) as outside:
        job = Submitter(outside, submitter.tiers).submit(SHORT, tier="premium")
        start_worker("high", "low", REDIS_URL=url)

        until(lambda: all_ended(outside, [job.id]))
        assert jobs.view(jobs.fetch(outside, job.id)).status == "succeeded"


def test_without_the_password_nothing_is_reached(redis_url: str, password: str) -> None:
    with connections.commands(redis_url) as outside, pytest.raises(AuthenticationError):
        outside.ping()


def test_a_server_that_is_not_there_is_one_line_from_the_worker(start_worker: StartWorker) -> None:
    worker = start_worker("--burst", "high", REDIS_URL="redis://127.0.0.1:1/0")

    assert worker.wait() != 0
    assert "Traceback" not in worker.log
