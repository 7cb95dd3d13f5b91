"""Server-sent events as they are written, and a client that does not read them."""

import socket

import pytest

from api import sse


def test_an_event_has_its_kind_its_id_and_its_data_on_a_line_each() -> None:
    assert sse.json_event("status", "1-0", {"status": "running"}) == (
        'event: status\nid: 1-0\ndata: {"status":"running"}\n\n'
    )


def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 1)
    server, client = socket.socketpair()
    with server, client:
        sse.limit_sends({"gunicorn.socket": server})

        with pytest.raises(BlockingIOError):
            server.sendall(bytes(1 << 26))


def test_without_a_socket_there_is_nothing_to_limit() -> None:
    sse.limit_sends({})
